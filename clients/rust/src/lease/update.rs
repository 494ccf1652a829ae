//! Attributes that a registered instance changes.

use std::collections::BTreeMap;

use super::register::Register;

/// Changes of attributes; what is not named stays as it is.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Update {
    actor_name: Option<String>,
    version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    label: BTreeMap<String, Option<String>>,
}

impl Update {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Name of the actor.
    pub fn actor_name(mut self, actor_name: impl Into<String>) -> Self {
        self.actor_name = Some(actor_name.into());
        self
    }

    /// Version of the software.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// These labels in place of all others.
    pub fn labels(mut self, labels: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> Self {
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        (self.labels, self.label) = (Some(labels.collect()), BTreeMap::new());
        self
    }

    /// This label beside the others.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.label.insert(key.into(), Some(value.into()));
        self
    }

    /// Without this label.
    pub fn without_label(mut self, key: impl Into<String>) -> Self {
        self.label.insert(key.into(), None);
        self
    }

    pub(super) fn apply(self, wanted: &mut Register) {
        self.actor_name.into_iter().for_each(|name| wanted.actor_name = name);
        self.version.into_iter().for_each(|version| wanted.version = version);
        self.labels.into_iter().for_each(|labels| wanted.labels = labels);
        for (key, value) in self.label {
            match value {
                Some(value) => wanted.labels.insert(key, value),
                None => wanted.labels.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_changes_what_it_names_and_nothing_else() {
        let mut wanted = Register::new("a").label("kept", "1").label("gone", "2").version("1").actor_name("x");
        Update::new().label("new", "3").without_label("gone").version("2").apply(&mut wanted);
        let labels = |wanted: &Register| wanted.labels.clone().into_iter().collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(labels(&wanted), [pair("kept", "1"), pair("new", "3")]);
        assert_eq!((wanted.version.as_str(), wanted.actor_name.as_str()), ("2", "x"));
        Update::new().label("dropped", "4").labels([("only", "5")]).apply(&mut wanted);
        assert_eq!(labels(&wanted), [pair("only", "5")]);
    }
}
