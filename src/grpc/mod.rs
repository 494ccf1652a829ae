//! Module `grpc`.
