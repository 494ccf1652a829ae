//! Code generated from `proto/muster/v1` by `build.rs`; documented there.

/// Package `muster.v1`.
pub mod v1 {
    #![expect(
        clippy::allow_attributes,
        clippy::too_many_lines,
        unused_qualifications,
        reason = "generated code; the .proto files are the documentation"
    )]
    tonic::include_proto!("muster.v1");
}

/// The encoded descriptor set of the protocol, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
