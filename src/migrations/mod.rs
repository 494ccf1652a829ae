//! The migrations that are part of this binary, and what their texts say: which objects they make, which locks they take,
//! which shape their tables have,
//! and in which forms SeedCore has made the same objects. Knows no database.

pub(crate) mod embedded;
pub(crate) mod forms;
pub(crate) mod locks;
pub(crate) mod objects;
pub(crate) mod shape;
pub(crate) mod statements;
