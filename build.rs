//! Compiles the protocol definitions without an installed `protoc`, and lists the files of the SQL functions.
//!
//! The descriptor set is written beside the generated code: the reflection service serves it, so that a client
//! such as `buf curl` needs no `.proto` file. The SQL functions (`migrations/functions`) are embedded from a generated
//! list, so that a new file needs no entry anywhere else.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const PROTO_ROOT: &str = "proto";
const PROTO_FILES: [&str; 6] = [
    "muster/v1/cluster.proto",
    "muster/v1/decision.proto",
    "muster/v1/discovery.proto",
    "muster/v1/error.proto",
    "muster/v1/instance.proto",
    "muster/v1/registry.proto",
];

const FUNCTIONS: &str = "migrations/functions";

fn main() -> Result<(), Box<dyn Error>> {
    list_functions()?;
    compile_protocol()
}

/// Writes `functions.rs`: a slice of file names and texts, sorted by name.
fn list_functions() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={FUNCTIONS}");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(FUNCTIONS);
    let entries = fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().filter(|path| path.extension().is_some_and(|end| end == "sql")).collect();
    files.sort();
    let mut list = String::from("&[\n");
    for path in &files {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("a function's file name is not UTF-8")?;
        writeln!(list, "    ({name:?}, include_str!({path:?})),")?;
    }
    list.push_str("]\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("functions.rs"), list)?;
    Ok(())
}

fn compile_protocol() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler.include_source_info(true).include_imports(true).open_files(PROTO_FILES)?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::Codec")
        // Their parts are encoded once and shared: see `src/proto.rs`.
        .extern_path(".muster.v1.WatchResponse", "crate::proto::encoded::WatchResponse")
        .extern_path(".muster.v1.BatchResolveResponse", "crate::proto::encoded::BatchResolveResponse")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
