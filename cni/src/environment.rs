//! What the caller says in environment variables: read once, checked once.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use cadastre_messages::code;

use crate::error::Error;
use crate::names;

/// The variables as they are. `CNI_PATH` is not among them: an IPAM plugin calls no other.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    pub command: OsString,
    pub container_id: OsString,
    pub interface: OsString,
    pub netns: OsString,
    pub args: OsString,
}

impl Variables {
    /// An absent variable is an empty one, as the reference library has it.
    pub fn of_process() -> Self {
        let variable = |name| env::var_os(name).unwrap_or_default();
        Self {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            interface: variable("CNI_IFNAME"),
            netns: variable("CNI_NETNS"),
            args: variable("CNI_ARGS"),
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Check, Self::Del, Self::Gc, Self::Status, Self::Version];

    pub fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|verb| verb.text() == text).ok_or_else(|| {
            let remedy = format!("use one of {}", Self::ALL.map(Self::text).join(", "));
            Error::new(code::BAD_ENVIRONMENT, format!("unknown CNI_COMMAND: {text:?}"), remedy)
        })
    }

    /// ADD, CHECK and DEL are about one interface of one container.
    fn needs_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Check | Self::Del)
    }

    /// DEL has to work when the namespace is long gone.
    fn needs_netns(self) -> bool {
        matches!(self, Self::Add | Self::Check)
    }
}

/// The checked environment. What the verb does not need may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    pub verb: Verb,
    pub container_id: String,
    pub interface: String,
    pub netns: PathBuf,
    pub args: String,
}

impl Environment {
    /// `None` if no verb is given: then a person has typed the plugin's name.
    pub fn parse(variables: Variables) -> Result<Option<Self>, Error> {
        let Variables { command, container_id, interface, netns, args } = variables;
        if command.is_empty() {
            return Ok(None);
        }
        let environment = Self {
            verb: Verb::parse(&command.to_string_lossy())?,
            // A stray space around an ID must not defeat matching.
            container_id: container_id.to_string_lossy().trim().to_owned(),
            interface: interface.to_string_lossy().into_owned(),
            netns: netns.into(),
            args: args.to_string_lossy().into_owned(),
        };
        environment.complete()?;
        if environment.verb.needs_attachment() {
            environment.well_named()?;
        }
        Ok(Some(environment))
    }

    /// Every missing variable goes into one error, so that nobody mends them one at a time.
    fn complete(&self) -> Result<(), Error> {
        let required = [
            ("CNI_CONTAINERID", self.container_id.is_empty(), self.verb.needs_attachment()),
            ("CNI_NETNS", self.netns.as_os_str().is_empty(), self.verb.needs_netns()),
            ("CNI_IFNAME", self.interface.is_empty(), self.verb.needs_attachment()),
        ];
        let missing: Vec<&str> =
            required.into_iter().filter(|(_, empty, needed)| *empty && *needed).map(|(name, ..)| name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message =
            format!("required environment variables missing for {}: {}", self.verb.text(), missing.join(", "));
        Err(Error::new(code::BAD_ENVIRONMENT, message, "the container runtime has to set them"))
    }

    fn well_named(&self) -> Result<(), Error> {
        if !names::is_identifier(&self.container_id) {
            let message = format!("CNI_CONTAINERID {:?} is not a container ID", self.container_id);
            let remedy = "it has to start with a letter or digit and hold only letters, digits, '_', '.' and '-'";
            return Err(Error::new(code::BAD_ENVIRONMENT, message, remedy));
        }
        if !names::is_interface(&self.interface) {
            let message = format!("CNI_IFNAME {:?} is not an interface name", self.interface);
            let remedy = "it has to have 1 to 15 bytes, not be '.' or '..', and hold no '/', ':' or space";
            return Err(Error::new(code::BAD_ENVIRONMENT, message, remedy));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn variables(command: &str) -> Variables {
        Variables {
            command: command.into(),
            container_id: "c1".into(),
            interface: "eth0".into(),
            netns: "/run/netns/x".into(),
            args: "K=V".into(),
        }
    }

    fn refused(variables: Variables) -> String {
        let error = Environment::parse(variables).unwrap_err();
        assert_eq!(error.failure.code, code::BAD_ENVIRONMENT);
        error.failure.msg
    }

    #[test]
    fn no_verb_is_no_error() {
        assert_eq!(Environment::parse(variables("")), Ok(None));
    }

    #[test]
    fn an_unknown_verb_is_named() {
        assert!(refused(variables("add")).contains("\"add\""));
        assert!(refused(variables("UPDATE")).contains("UPDATE"));
    }

    #[test]
    fn all_missing_variables_in_one_error() {
        let table = [
            ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
            ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ];
        for (verb, names) in table {
            let message = refused(Variables { command: verb.into(), ..Variables::default() });
            for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
                assert_eq!(message.contains(name), names.contains(&name), "{verb}: {message}");
            }
        }
        for verb in ["GC", "STATUS", "VERSION"] {
            let alone = Variables { command: verb.into(), ..Variables::default() };
            assert!(Environment::parse(alone).unwrap().is_some(), "{verb}");
        }
    }

    #[test]
    fn ids_lose_stray_space_and_nothing_else() {
        let spaced = Variables { container_id: " c1\n".into(), ..variables("DEL") };
        assert_eq!(Environment::parse(spaced).unwrap().unwrap().container_id, "c1");
        assert!(refused(Variables { container_id: "c 1".into(), ..variables("DEL") }).contains("CNI_CONTAINERID"));
        assert!(refused(Variables { container_id: "../c".into(), ..variables("ADD") }).contains("\"../c\""));
        assert!(refused(Variables { interface: "a:b".into(), ..variables("DEL") }).contains("CNI_IFNAME"));
    }

    #[test]
    fn what_is_not_utf8_is_refused_where_it_is_a_name_only() {
        let broken = OsString::from_vec(vec![b'a', 0xff]);
        assert!(refused(Variables { container_id: broken.clone(), ..variables("ADD") }).contains("CNI_CONTAINERID"));
        let netns = Variables { netns: broken.clone(), ..variables("ADD") };
        assert_eq!(Environment::parse(netns).unwrap().unwrap().netns.into_os_string(), broken);
    }
}
