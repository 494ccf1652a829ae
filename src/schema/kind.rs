//! The kinds of objects that a schema consists of, and the words for them.

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An enum or a composite type.
    Type,
    /// A table with its columns, constraints, storage parameters and comments.
    Table,
    /// An index that no constraint brought along.
    Index,
    /// A function.
    Function,
    /// A view.
    View,
    /// A trigger.
    Trigger,
}

impl Kind {
    pub(crate) const ALL: [(Self, &str); 6] = [
        (Self::Type, "type"),
        (Self::Table, "table"),
        (Self::Index, "index"),
        (Self::Function, "function"),
        (Self::View, "view"),
        (Self::Trigger, "trigger"),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("object", |(_, word)| word)
    }
}
