//! Module `metrics`.
