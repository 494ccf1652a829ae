//! Module `model`.
