//! Association negotiation (PS3.8 section 9.3, PS3.7 annex D): who may talk, about what, in which syntax.
//!
//! Every storage SOP class is taken, known or private, and for each context the first proposed transfer syntax that
//! can be kept: the sender's first choice is what it has, so nothing is converted on the way. The PDUs themselves
//! are dicom-ul's.

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderPresentationReason,
    AssociationRJServiceUserReason, AssociationRJSource, AssociationRQ, PresentationContextProposed,
    PresentationContextResult, PresentationContextResultReason, UserVariableItem,
};

use crate::dicom::identifiers::{AeTitle, Uid};
use crate::dicom::part10::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION};
use crate::dicom::syntax::{IMPLICIT_LITTLE, TransferSyntax};

/// What peers are asked to keep their PDUs below, in bytes. DCMTK sends at most 128 KiB whatever is allowed.
pub const PDU_BYTES_ADVERTISED: u32 = 256 << 10;

/// C-STORE operations that one association may have under way, where the peer asks for more than one.
pub const OPERATIONS_MAX: u16 = 4;

const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Nearly all storage SOP classes lie under this root.
const STORAGE_ROOT: &str = "1.2.840.10008.5.1.4.1.1.";
/// Those that don't: beams delivery, hanging protocol, palette, implant templates.
const STORAGE_ELSEWHERE: [&str; 7] = [
    "1.2.840.10008.5.1.4.34.7",
    "1.2.840.10008.5.1.4.34.10",
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
];
/// Asynchronous operations window, PS3.7 D.3.3.3.
const ASYNCHRONOUS_WINDOW_ITEM: u8 = 0x53;

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub id: u8,
    /// What was agreed to be talked about.
    pub abstract_syntax: Uid,
    pub transfer_syntax: Uid,
}

impl Context {
    /// All that is served but verification is storage.
    pub fn is_for_storage(&self) -> bool {
        self.abstract_syntax.as_str() != VERIFICATION
    }
}

/// An association as agreed.
#[derive(Debug)]
pub struct Agreement {
    pub calling_ae: AeTitle,
    pub called_ae: AeTitle,
    pub contexts: Vec<Context>,
    /// Operations that the peer may have under way.
    pub window: u16,
    pub reply: AssociationAC,
}

/// Whether an abstract syntax is one that this receiver serves.
pub fn is_served(abstract_syntax: &Uid) -> bool {
    let text = abstract_syntax.as_str();
    text == VERIFICATION
        || text.starts_with(STORAGE_ROOT)
        || STORAGE_ELSEWHERE.contains(&text)
        || !abstract_syntax.is_standard()
}

/// Agrees, or says why not. `called` lists the titles that this receiver answers to; empty means any.
pub fn agree(request: AssociationRQ, called: &[AeTitle]) -> Result<Agreement, AssociationRJ> {
    use AssociationRJServiceUserReason::*;
    if request.application_context_name.trim_end_matches('\0') != APPLICATION_CONTEXT {
        return Err(rejection(ApplicationContextNameNotSupported));
    }
    let calling_ae = AeTitle::parse(&request.calling_ae_title).map_err(|_| rejection(CallingAETitleNotRecognized))?;
    let called_ae = AeTitle::parse(&request.called_ae_title).map_err(|_| rejection(CalledAETitleNotRecognized))?;
    if !called.is_empty() && !called.contains(&called_ae) {
        return Err(rejection(CalledAETitleNotRecognized));
    }
    let results: Vec<_> = request.presentation_contexts.iter().map(judge).collect();
    let accepted = |(proposed, result): (&PresentationContextProposed, &PresentationContextResult)| {
        let abstract_syntax = Uid::from_value(proposed.abstract_syntax.as_bytes()).ok()?;
        let transfer_syntax = Uid::parse(&result.transfer_syntax).ok()?;
        (result.reason == PresentationContextResultReason::Acceptance).then_some(Context {
            id: result.id,
            abstract_syntax,
            transfer_syntax,
        })
    };
    let contexts = request.presentation_contexts.iter().zip(&results).filter_map(accepted).collect();
    let (window, mut user_variables) = window(&request.user_variables);
    user_variables.extend([
        UserVariableItem::MaxLength(PDU_BYTES_ADVERTISED),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.into()),
    ]);
    let reply = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title,
        called_ae_title: request.called_ae_title,
        application_context_name: APPLICATION_CONTEXT.into(),
        presentation_contexts: results,
        user_variables,
    };
    Ok(Agreement { calling_ae, called_ae, contexts, window, reply })
}

fn judge(proposed: &PresentationContextProposed) -> PresentationContextResult {
    use PresentationContextResultReason::*;
    let uid = |text: &str| Uid::from_value(text.as_bytes()).ok();
    let syntax = proposed.transfer_syntaxes.iter().filter_map(|text| uid(text)).find(TransferSyntax::is_storable);
    let served = uid(&proposed.abstract_syntax).is_some_and(|class| is_served(&class));
    let (reason, transfer_syntax) = match (served, syntax) {
        (true, Some(syntax)) => (Acceptance, syntax.as_str().to_owned()),
        (true, None) => (TransferSyntaxesNotSupported, IMPLICIT_LITTLE.to_owned()),
        // The syntax of a refused context says nothing (PS3.8 9.3.3.2), but must be there.
        (false, _) => (AbstractSyntaxNotSupported, IMPLICIT_LITTLE.to_owned()),
    };
    PresentationContextResult { id: proposed.id, reason, transfer_syntax }
}

/// The operations window, and the item to answer with where the peer asked.
fn window(items: &[UserVariableItem]) -> (u16, Vec<UserVariableItem>) {
    let asked = items.iter().find_map(|item| match item {
        UserVariableItem::Unknown(ASYNCHRONOUS_WINDOW_ITEM, data) => data.first_chunk().map(|b| u16::from_be_bytes(*b)),
        _ => None,
    });
    let Some(asked) = asked else { return (1, Vec::new()) };
    // Zero asks for no limit.
    let granted = if asked == 0 { OPERATIONS_MAX } else { asked.min(OPERATIONS_MAX) };
    let [high, low] = granted.to_be_bytes();
    // We invoke nothing on this association, so the second number is the least that can be said.
    (granted, vec![UserVariableItem::Unknown(ASYNCHRONOUS_WINDOW_ITEM, vec![high, low, 0, 1])])
}

fn rejection(reason: AssociationRJServiceUserReason) -> AssociationRJ {
    AssociationRJ { result: AssociationRJResult::Permanent, source: AssociationRJSource::ServiceUser(reason) }
}

/// For peers that come when all places are taken: try again later.
pub fn full() -> AssociationRJ {
    let reason = AssociationRJServiceProviderPresentationReason::LocalLimitExceeded;
    AssociationRJ {
        result: AssociationRJResult::Transient,
        source: AssociationRJSource::ServiceProviderPresentation(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(contexts: &[(&str, &[&str])]) -> AssociationRQ {
        let context = |(index, (class, syntaxes)): (usize, &(&str, &[&str]))| PresentationContextProposed {
            id: (index * 2 + 1) as u8,
            abstract_syntax: (*class).into(),
            transfer_syntaxes: syntaxes.iter().map(|text| (*text).into()).collect(),
        };
        AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "CT-1".into(),
            called_ae_title: "TESSERA".into(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: contexts.iter().enumerate().map(context).collect(),
            user_variables: vec![UserVariableItem::MaxLength(16384)],
        }
    }

    #[test]
    fn contexts_are_judged() {
        use PresentationContextResultReason::*;
        let (implicit, explicit, jpeg) = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70");
        let table: [(&str, &[&str], PresentationContextResultReason, &str); 8] = [
            (VERIFICATION, &[implicit], Acceptance, implicit),
            ("1.2.840.10008.5.1.4.1.1.2", &[jpeg, explicit, implicit], Acceptance, jpeg),
            ("1.2.840.10008.5.1.4.1.1.2", &["1.2.840.10008.1.2.4.94", explicit], Acceptance, explicit),
            ("1.2.840.10008.5.1.4.1.1.2", &["1.2.840.10008.1.2.4.94"], TransferSyntaxesNotSupported, implicit),
            ("1.2.840.10008.5.1.4.1.1.2", &[], TransferSyntaxesNotSupported, implicit),
            ("1.3.12.2.1107.5.9.1", &["1.2.840.113619.5.2"], Acceptance, "1.2.840.113619.5.2"),
            ("1.2.840.10008.5.1.4.1.2.2.1", &[implicit], AbstractSyntaxNotSupported, implicit),
            ("no class", &[implicit], AbstractSyntaxNotSupported, implicit),
        ];
        for (class, syntaxes, reason, syntax) in table {
            let agreement = agree(request(&[(class, syntaxes)]), &[]).expect("agrees");
            let result = &agreement.reply.presentation_contexts[0];
            assert_eq!((&result.reason, result.transfer_syntax.as_str()), (&reason, syntax), "{class}");
            assert_eq!(agreement.contexts.len(), usize::from(reason == Acceptance), "{class}");
        }
    }

    #[test]
    fn titles_are_checked() {
        let own = AeTitle::parse("TESSERA").expect("a title");
        let other = AeTitle::parse("OTHER").expect("a title");
        assert!(agree(request(&[]), &[]).is_ok());
        assert!(agree(request(&[]), &[own]).is_ok());
        assert_eq!(
            agree(request(&[]), &[other]).err(),
            Some(rejection(AssociationRJServiceUserReason::CalledAETitleNotRecognized))
        );
        let mut nameless = request(&[]);
        nameless.calling_ae_title.clear();
        assert_eq!(
            agree(nameless, &[]).err(),
            Some(rejection(AssociationRJServiceUserReason::CallingAETitleNotRecognized))
        );
    }

    #[test]
    fn windows_are_bounded() {
        for (asked, granted) in
            [(None, 1), (Some(1u16), 1), (Some(3), 3), (Some(0), OPERATIONS_MAX), (Some(500), OPERATIONS_MAX)]
        {
            let mut request = request(&[]);
            request.user_variables.extend(asked.map(|asked| {
                let [high, low] = asked.to_be_bytes();
                UserVariableItem::Unknown(ASYNCHRONOUS_WINDOW_ITEM, vec![high, low, 0, 1])
            }));
            assert_eq!(agree(request, &[]).expect("agrees").window, granted, "{asked:?}");
        }
    }
}
