//! One association from its first to its last byte.
//!
//! The messages of an association are strictly one after the other on the wire: command fragments, then data set
//! fragments. A finished object goes to the sink; while the sink works, as many further messages are read as the
//! peer was granted (one, so none, for nearly all), and responses go out as the sink answers.
//!
//! Invariants: (1) success is sent only after the sink said so; (2) at most `window` objects are with the sink, and
//! one is being read; (3) an object given to the sink is waited for even when the peer has gone.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, Pdu};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::command::{COMMAND_BYTES_MAX, Operation, Request};
use super::negotiate::{self, Agreement, Context};
use super::wire::{Arrival, Fragment, Wire, WireError};
use super::{Receiver, ScpConfig};
use crate::connections::{Full, Place};
use crate::dicom::identifiers::AeTitle;
use crate::dicom::sink::{BUFFERED_BYTES_MAX, Incoming, LargeObject, Sender, StoreOutcome, StoreSink};
use crate::dicom::status::Outcome;

/// Room for the first object of an association, in bytes; later ones take the size of the one before.
const FIRST_OBJECT_BYTES: usize = 1 << 20;

/// How an association ended otherwise than by release.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The ARTIM timer ran out (PS3.8 section 9.1.5).
    #[error("the peer did not ask for an association in time")]
    NoRequest,
    #[error("the association was refused")]
    Refused,
    #[error("the association was refused for now: {0}")]
    Full(Full),
    #[error("the peer aborted")]
    Aborted,
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("this node is stopping")]
    Stopped,
}

impl SessionError {
    /// What the peer is told, where it still listens.
    fn abort(&self) -> Option<AbortRQSource> {
        use AbortRQServiceProviderReason::*;
        match self {
            Self::Wire(WireError::Malformed | WireError::PduTooLarge { .. }) => {
                Some(AbortRQSource::ServiceProvider(InvalidPduParameter))
            }
            Self::Wire(WireError::Silent) => Some(AbortRQSource::ServiceProvider(ReasonNotSpecified)),
            Self::Protocol(_) => Some(AbortRQSource::ServiceProvider(UnexpectedPdu)),
            Self::Stopped => Some(AbortRQSource::ServiceUser),
            // Whoever did not ask is told nothing (PS3.8 table 9-10, state 2).
            Self::Wire(_) | Self::NoRequest | Self::Refused | Self::Full(_) | Self::Aborted => None,
        }
    }
}

/// Serves one connection to its end. `waiting` is its place among those that have not asked for an association yet.
pub async fn run(stream: TcpStream, peer: SocketAddr, receiver: Arc<Receiver>, waiting: Place) {
    let mut wire = match Wire::new(stream) {
        Ok(wire) => wire,
        Err(error) => return tracing::debug!(%peer, %error, "the connection failed at once"),
    };
    let agreed = tokio::select! {
        agreed = establish(&mut wire, peer, &receiver) => agreed,
        () = receiver.stop.cancelled() => Err(SessionError::Stopped),
    };
    drop(waiting);
    let (mut session, ended) = match agreed {
        Ok((agreement, _place)) => {
            let mut session = Session::new(wire, agreement, peer, receiver.sink.as_ref(), &receiver.config);
            let ended = session.serve(&receiver.stop).await;
            session.settle().await;
            (session, ended)
        }
        Err(error) => {
            match &error {
                SessionError::Full(full) => receiver.turned_away.tell(peer, full),
                error => tracing::info!(%peer, %error, "no DICOM association"),
            }
            return end(&mut wire, &error).await;
        }
    };
    let Counts { stored, refused, bytes } = session.counts;
    let calling = &session.sender.calling_ae;
    match ended {
        Ok(()) => tracing::info!(%peer, %calling, stored, refused, bytes, "DICOM association released"),
        Err(error) => {
            tracing::warn!(%peer, %calling, stored, refused, bytes, %error, "DICOM association ended");
            end(&mut session.wire, &error).await;
        }
    }
}

async fn end(wire: &mut Wire, error: &SessionError) {
    if let Some(source) = error.abort() {
        // The association is over whether the peer hears it or not.
        let _ = wire.send(&Pdu::AbortRQ { source }).await;
    }
    wire.close().await;
}

/// A place is taken for what asked for one and is agreed, never for a connection alone.
async fn establish(wire: &mut Wire, peer: SocketAddr, receiver: &Receiver) -> Result<(Agreement, Place), SessionError> {
    let request = match wire.next(receiver.config.request_patience).await {
        Ok(Arrival::Control(Pdu::AssociationRQ(request))) => request,
        Ok(_) => return Err(SessionError::Protocol("it did not begin with a request for an association")),
        Err(WireError::Silent) => return Err(SessionError::NoRequest),
        Err(error) => return Err(error.into()),
    };
    let agreed = negotiate::agree(request, &receiver.config.called_ae_titles);
    let agreed = agreed.map_err(|rejection| (rejection, SessionError::Refused)).and_then(|agreement| {
        let place = receiver.places.take(peer.ip());
        place.map(|place| (agreement, place)).map_err(|full| (negotiate::full(), SessionError::Full(full)))
    });
    match agreed {
        Ok((agreement, place)) => {
            wire.send(&Pdu::AssociationAC(agreement.reply.clone())).await?;
            wire.associated();
            Ok((agreement, place))
        }
        Err((rejection, error)) => {
            wire.send(&Pdu::AssociationRJ(rejection)).await?;
            Err(error)
        }
    }
}

/// A message on its way in.
enum Message {
    None,
    Command { context: u8, bytes: Vec<u8> },
    DataSet(Box<DataSet>),
}

/// A request with its data set on its way in.
struct DataSet {
    context: u8,
    request: Request,
    body: Body,
}

/// The data set of a message.
enum Body {
    Buffered {
        incoming: Incoming,
        bytes: BytesMut,
    },
    Large(Box<dyn LargeObject>),
    /// Read and dropped: the answer is known.
    Dropped {
        outcome: Outcome,
        reason: String,
    },
}

impl Body {
    fn refused(outcome: &StoreOutcome) -> Self {
        Self::Dropped { outcome: outcome.outcome(), reason: outcome.reason().to_owned() }
    }
}

/// An object that the sink has answered for.
struct Done {
    context: u8,
    request: Request,
    outcome: StoreOutcome,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    stored: u64,
    refused: u64,
    bytes: u64,
}

struct Session<'a> {
    wire: Wire,
    sink: &'a dyn StoreSink,
    config: &'a ScpConfig,
    sender: Sender,
    contexts: Vec<Context>,
    window: usize,
    message: Message,
    in_flight: FuturesUnordered<BoxFuture<'a, Done>>,
    last_object_bytes: usize,
    counts: Counts,
}

impl<'a> Session<'a> {
    fn new(wire: Wire, agreement: Agreement, peer: SocketAddr, sink: &'a dyn StoreSink, config: &'a ScpConfig) -> Self {
        let Agreement { calling_ae, called_ae, contexts, window, .. } = agreement;
        Self {
            wire,
            sink,
            config,
            sender: sender(calling_ae, called_ae, peer),
            contexts,
            window: window.into(),
            message: Message::None,
            in_flight: FuturesUnordered::new(),
            last_object_bytes: FIRST_OBJECT_BYTES,
            counts: Counts::default(),
        }
    }

    /// Until the peer releases, or something ends the association.
    async fn serve(&mut self, stop: &CancellationToken) -> Result<(), SessionError> {
        loop {
            let may_read = self.in_flight.len() < self.window;
            if may_read && let Some(arrival) = self.wire.inbox().next()? {
                match arrival {
                    Arrival::Fragment(fragment) => self.fragment(fragment).await?,
                    Arrival::Control(Pdu::ReleaseRQ) => return self.release().await,
                    Arrival::Control(Pdu::AbortRQ { .. }) => return Err(SessionError::Aborted),
                    Arrival::Control(_) => return Err(SessionError::Protocol("a PDU came that has no place here")),
                }
                continue;
            }
            let patience = match self.message {
                Message::None => self.config.idle_patience,
                _ => self.config.message_patience,
            };
            tokio::select! {
                biased;
                Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => self.answer(done).await?,
                () = stop.cancelled(), if self.in_flight.is_empty() => return Err(SessionError::Stopped),
                filled = self.wire.fill(patience), if may_read => filled?,
            }
        }
    }

    async fn release(&mut self) -> Result<(), SessionError> {
        while let Some(done) = self.in_flight.next().await {
            self.answer(done).await?;
        }
        self.wire.send(&Pdu::ReleaseRP).await?;
        self.wire.close().await;
        Ok(())
    }

    /// Invariant 3: waits for what the sink still works on, after the association.
    async fn settle(&mut self) {
        while self.in_flight.next().await.is_some() {}
    }

    async fn answer(&mut self, done: Done) -> Result<(), SessionError> {
        let Done { context, request, outcome } = done;
        self.respond(context, &request, outcome.outcome(), outcome.reason()).await
    }

    async fn respond(
        &mut self,
        context: u8,
        request: &Request,
        outcome: Outcome,
        reason: &str,
    ) -> Result<(), SessionError> {
        match (&request.operation, outcome.dimse()) {
            (Operation::Echo, _) => {}
            (_, 0) => self.counts.stored += 1,
            _ => {
                self.counts.refused += 1;
                tracing::warn!(calling = %self.sender.calling_ae, ?outcome, reason, "an object was not kept");
            }
        }
        self.wire.send_command(context, &request.response(outcome, reason)).await?;
        Ok(())
    }

    async fn fragment(&mut self, fragment: Fragment) -> Result<(), SessionError> {
        let Fragment { context: id, is_command, is_last, bytes: piece } = fragment;
        match (std::mem::replace(&mut self.message, Message::None), is_command) {
            (Message::None, true) => self.command(id, Vec::new(), &piece, is_last).await,
            (Message::Command { context, bytes }, true) if context == id => {
                self.command(id, bytes, &piece, is_last).await
            }
            (Message::DataSet(mut data_set), false) if data_set.context == id => {
                self.counts.bytes += piece.len() as u64;
                data_set.body = append(self.sink, data_set.body, piece).await;
                if is_last {
                    return self.finish(*data_set).await;
                }
                self.message = Message::DataSet(data_set);
                Ok(())
            }
            _ => Err(SessionError::Protocol("fragments of two messages are mixed")),
        }
    }

    async fn command(&mut self, id: u8, mut bytes: Vec<u8>, piece: &[u8], last: bool) -> Result<(), SessionError> {
        bytes.extend_from_slice(piece);
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(SessionError::Protocol("a command set is too long"));
        }
        if !last {
            self.message = Message::Command { context: id, bytes };
            return Ok(());
        }
        let request = Request::parse(&bytes).map_err(|_| SessionError::Protocol("a command set makes no sense"))?;
        let context = self.contexts.iter().find(|context| context.id == id);
        let context = context.ok_or(SessionError::Protocol("a presentation context was used that was not agreed"))?;
        if request.has_data_set {
            let body = self.body(&request, context);
            self.message = Message::DataSet(Box::new(DataSet { context: id, request, body }));
            return Ok(());
        }
        let (outcome, reason) = match request.operation {
            Operation::Echo => (Outcome::Success, ""),
            Operation::Cancel => return Ok(()),
            Operation::Store { .. } | Operation::BrokenStore => (Outcome::NotUnderstood, "the message has no data set"),
            Operation::Unknown => (Outcome::UnknownOperation, "only C-ECHO and C-STORE are served here"),
        };
        self.respond(id, &request, outcome, reason).await
    }

    fn body(&self, request: &Request, context: &Context) -> Body {
        match &request.operation {
            Operation::Store { .. } if !context.is_for_storage() => Body::Dropped {
                outcome: Outcome::ClassNotSupported,
                reason: "this presentation context is for verification".into(),
            },
            Operation::Store { sop_class, sop_instance } => Body::Buffered {
                incoming: Incoming {
                    sender: self.sender.clone(),
                    sop_class: sop_class.clone(),
                    sop_instance: sop_instance.clone(),
                    transfer_syntax: context.transfer_syntax.clone(),
                },
                bytes: BytesMut::with_capacity(self.last_object_bytes),
            },
            Operation::BrokenStore => Body::Dropped {
                outcome: Outcome::NotUnderstood,
                reason: "the command lacks a valid SOP class or instance UID".into(),
            },
            _ => Body::Dropped {
                outcome: Outcome::UnknownOperation,
                reason: "only C-ECHO and C-STORE are served here".into(),
            },
        }
    }

    /// The data set is complete: hands it to the sink, or answers at once.
    async fn finish(&mut self, data_set: DataSet) -> Result<(), SessionError> {
        let DataSet { context, request, body } = data_set;
        let stored = match body {
            Body::Buffered { incoming, bytes } => {
                self.last_object_bytes = bytes.len();
                self.sink.store(incoming, bytes.freeze())
            }
            Body::Large(object) => object.finish(),
            Body::Dropped { outcome, reason } => return self.respond(context, &request, outcome, &reason).await,
        };
        self.in_flight.push(stored.map(move |outcome| Done { context, request, outcome }).boxed());
        Ok(())
    }
}

fn sender(calling_ae: AeTitle, called_ae: AeTitle, peer: SocketAddr) -> Sender {
    Sender { calling_ae, called_ae, address: peer.ip().to_canonical() }
}

/// Takes the next piece of a data set; one that outgrows the memory granted to it goes on in pieces.
async fn append(sink: &dyn StoreSink, body: Body, piece: Bytes) -> Body {
    match body {
        Body::Buffered { incoming, mut bytes } if bytes.len() + piece.len() <= BUFFERED_BYTES_MAX => {
            bytes.extend_from_slice(&piece);
            Body::Buffered { incoming, bytes }
        }
        Body::Buffered { incoming, bytes } => match sink.begin_large(incoming) {
            Ok(object) => match write(object, bytes.freeze()).await {
                Body::Large(object) => write(object, piece).await,
                dropped => dropped,
            },
            Err(outcome) => Body::refused(&outcome),
        },
        Body::Large(object) => write(object, piece).await,
        Body::Dropped { .. } => body,
    }
}

async fn write(mut object: Box<dyn LargeObject>, piece: Bytes) -> Body {
    match object.write(piece).await {
        Ok(()) => Body::Large(object),
        Err(outcome) => Body::refused(&outcome),
    }
}
