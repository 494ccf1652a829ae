//! Module `registry`.
