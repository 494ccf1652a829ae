//! Module `http`.
