//! Module `daemon`.
