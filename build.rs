//! Compiles the protocol definitions without an installed `protoc`.
//!
//! The descriptor set is written beside the generated code: the reflection service serves it, so that a client
//! such as `buf curl` needs no `.proto` file.

use std::{env, error::Error, fs, path::PathBuf};

const PROTO_ROOT: &str = "proto";
const PROTO_FILES: [&str; 5] = [
    "muster/v1/cluster.proto",
    "muster/v1/discovery.proto",
    "muster/v1/error.proto",
    "muster/v1/instance.proto",
    "muster/v1/registry.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler.include_source_info(true).include_imports(true).open_files(PROTO_FILES)?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::Codec")
        // Their parts are encoded once and shared: see `src/proto.rs`.
        .extern_path(".muster.v1.WatchResponse", "crate::proto::shared::WatchResponse")
        .extern_path(".muster.v1.BatchResolveResponse", "crate::proto::shared::BatchResolveResponse")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
