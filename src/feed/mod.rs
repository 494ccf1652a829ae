//! Module `feed`.
