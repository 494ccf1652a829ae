//! Module `view`.
