//! Module `clock`.
