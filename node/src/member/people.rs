//! In whose name this node asks other sites: the user, and the role that it asserts and signs for them.
//!
//! Until users sign in, both are the word of whoever runs the node: the caller names the user, and the configuration
//! (`[people] role`) says what the node's users are. Without that the asker is a *service*: a program of the site
//! that no person drives, for which the federation's rules open nothing.

use anyhow::{Context, ensure};
use tessera_federation::policy_site;
use tessera_policy::{Role, UserAssertion, UserId};

use super::Member;
use crate::config::Config;

/// The assertion for `user` of the default site.
pub fn asserted(config: &Config, user: &str) -> anyhow::Result<UserAssertion> {
    ensure!(
        !user.trim().is_empty(),
        "say in whose name: --user on the command line; the parameter user or the header Tessera-User for DICOMweb"
    );
    let role = match &config.people.role {
        Some(role) => role.parse().with_context(|| format!("[people] role: {role}"))?,
        None => Role::Service,
    };
    let user = UserId::parse(user.trim())?;
    Ok(UserAssertion::new(policy_site(&config.default_site().id), user, role, None))
}

impl Member {
    pub fn asserted(&self, user: &str) -> anyhow::Result<UserAssertion> {
        asserted(&self.config, user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_physician_by_default_and_nobody_asks_without_a_name() {
        let text = "name = 'a'\n[[site]]\nid = 'county-a'\nlegal_name = 'County A'\nissuer = 'CA'\n";
        let configured = format!("{text}[people]\nrole = 'nurse'\n");
        for (config, user, expected) in [
            (text, "d001", Some(Role::Service)),
            (&configured, " d001 ", Some(Role::Nurse)),
            (&configured, "", None),
            (text, "two words", None),
        ] {
            let config: Config = toml::from_str(config).expect("a configuration");
            let got = asserted(&config, user).map(|asserted| asserted.role());
            assert_eq!(got.ok(), expected, "{user:?}");
        }
    }
}
