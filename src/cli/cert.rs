//! `musterd security init` and `musterd cert`: the files for TLS, made without another tool.
//!
//! A directory holds the CA (`ca.pem`, `ca.key`) and what it has signed. `init` never replaces a file: a CA that is replaced
//! invalidates every certificate in use. `cert` replaces what it is told to renew, each file by a rename, the key first; a
//! daemon that reads in between sees a pair that does not match, keeps the previous one, and takes the new one at its next
//! look.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::exit::{self, Error};
use crate::{
    clock::Clock,
    terminal::{
        args::parse_duration,
        output::{self, OutputArgs, Table},
    },
    tls::{Authority, Issued, Subject, describe},
};

/// The names of a daemon unless it is told others: what reaches it on its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The client certificate that `init` makes.
const FIRST_CLIENT: &str = "operator";

pub(super) const INIT_EXAMPLES: &str = "\
Examples:
  musterd security init tls --name registry.example
  musterd serve --grpc-addr 0.0.0.0:7717 --insecure-no-auth \\
    --tls-cert tls/server.pem --tls-key tls/server.key --tls-client-ca tls/ca.pem
  musterd status --addr https://registry.example --ca tls/ca.pem \\
    --cert tls/operator.pem --cert-key tls/operator.key";

pub(super) const EXAMPLES: &str = "\
Examples:
  # Renew the certificate of a daemon; the daemon takes it within seconds
  musterd cert server tls registry.example localhost
  musterd cert client tls router-1
  musterd cert show tls/server.pem";

/// Subcommands of `security`.
#[derive(Debug, clap::Subcommand)]
pub enum SecurityCommand {
    /// Make a CA, a certificate for the daemon and one for an operator
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
}

/// Arguments of `security init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Directory for the files; it is made if it is missing, and no file in it is replaced
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Name or IP address under which clients reach the daemon; localhost and the name of this machine are always among them
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
}

/// Subcommands of `cert`.
#[derive(Debug, clap::Subcommand)]
pub enum CertCommand {
    /// Make or renew DIR/server.pem and DIR/server.key, signed by the CA in DIR
    Server(ServerArgs),
    /// Make or renew DIR/NAME.pem and DIR/NAME.key for a client, signed by the CA in DIR
    Client(ClientCertArgs),
    /// Show for which names and until when a certificate is valid
    Show(ShowArgs),
}

/// Arguments of `cert server`.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// Directory of the CA
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Names and IP addresses under which clients reach the daemon
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// How long the certificate is valid
    #[arg(long, value_name = "DURATION", default_value = "90days", value_parser = parse_duration)]
    valid_for: Duration,
}

/// Arguments of `cert client`.
#[derive(Debug, clap::Args)]
pub struct ClientCertArgs {
    /// Directory of the CA
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Name of the client: the common name of the certificate, and the name of its files
    #[arg(value_name = "NAME", value_parser = parse_file_name)]
    name: String,

    /// Identity of the client as a SPIFFE URI, as alternative name of the certificate
    #[arg(long, value_name = "URI")]
    spiffe: Option<String>,

    /// How long the certificate is valid
    #[arg(long, value_name = "DURATION", default_value = "90days", value_parser = parse_duration)]
    valid_for: Duration,
}

/// Arguments of `cert show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Certificate in PEM form
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

fn parse_file_name(text: &str) -> Result<String, String> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text {
        "ca" | "server" => Err("is the name of a file that is in use; choose another one".to_owned()),
        text if text.is_empty() || text.starts_with('.') || !text.chars().all(is_safe) => {
            Err("expected letters, digits, -, _ and . only".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

pub(super) fn security(command: SecurityCommand) -> Result<u8, Error> {
    let SecurityCommand::Init(InitArgs { dir, name }) = command;
    let made = ["ca", "server", FIRST_CLIENT].map(|name| [pem(&dir, name), key(&dir, name)]);
    if let Some(present) = made.iter().flatten().find(|path| fs::symlink_metadata(path).is_ok()) {
        let path = present.display();
        return Err(Error::Usage(format!(
            "{path} exists, and is not replaced; choose another directory, or renew a certificate with musterd cert"
        )));
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&dir).map_err(|cause| failed("make", &dir, &cause))?;
    let now = Clock::new().wall();
    let mut names = name;
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    for own in host.into_iter().chain(LOCAL_NAMES.map(str::to_owned)) {
        if !own.is_empty() && !names.contains(&own) {
            names.push(own);
        }
    }
    let authority = Authority::create("musterd CA", now).map_err(refused)?;
    write(&dir, "ca", &authority)?;
    let authority = Authority::from_pem(&authority.certificate, &authority.key).map_err(refused)?;
    let lifetime = Duration::from_secs(90 * 24 * 60 * 60);
    let client = Subject::Client { name: FIRST_CLIENT.to_owned(), spiffe: None };
    for (name, subject) in [("server", Subject::Server(names)), (FIRST_CLIENT, client)] {
        write(&dir, name, &authority.issue(&subject, lifetime, now).map_err(refused)?)?;
    }
    output::print_text(&made.iter().flatten().map(|path| format!("{}\n", path.display())).collect::<String>())?;
    Ok(exit::OK)
}

pub(super) fn run(command: CertCommand) -> Result<u8, Error> {
    match command {
        CertCommand::Server(args) => issue(&args.dir, "server", &Subject::Server(args.names), args.valid_for),
        CertCommand::Client(args) => {
            let subject = Subject::Client { name: args.name.clone(), spiffe: args.spiffe };
            issue(&args.dir, &args.name, &subject, args.valid_for)
        }
        CertCommand::Show(args) => show(&args),
    }
}

fn issue(dir: &Path, name: &str, subject: &Subject, lifetime: Duration) -> Result<u8, Error> {
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(|cause| failed("read", &path, &cause));
    let authority = Authority::from_pem(&read(pem(dir, "ca"))?, &read(key(dir, "ca"))?).map_err(refused)?;
    write(dir, name, &authority.issue(subject, lifetime, Clock::new().wall()).map_err(refused)?)?;
    output::print_text(&format!("{}\n{}\n", pem(dir, name).display(), key(dir, name).display()))?;
    Ok(exit::OK)
}

fn show(args: &ShowArgs) -> Result<u8, Error> {
    let text = fs::read(&args.file).map_err(|cause| failed("read", &args.file, &cause))?;
    let shown =
        describe(&text).map_err(|why| Error::Usage(format!("{} holds no certificate: {why}", args.file.display())))?;
    let expires = shown.validity.not_after.to_rfc3339();
    let left = shown.validity.left(Clock::new().wall()).as_secs();
    let names = shown.names.join(",");
    output::print_answer(
        args.output.output,
        || {
            serde_json::json!({
                "subject": shown.subject, "issuer": shown.issuer, "names": shown.names,
                "notBefore": shown.validity.not_before.to_rfc3339(), "notAfter": expires, "secondsLeft": left,
            })
        },
        || vec![shown.subject.clone()],
        || {
            let mut table = Table::new(["SUBJECT", "NAMES", "ISSUER", "EXPIRES", "DAYS LEFT"]);
            let days = (left / 86_400).to_string();
            table.row([shown.subject.clone(), names.clone(), shown.issuer.clone(), expires.clone(), days]);
            table.text()
        },
    )?;
    Ok(exit::OK)
}

fn pem(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn key(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

fn write(dir: &Path, name: &str, issued: &Issued) -> Result<(), Error> {
    replace(&key(dir, name), &issued.key, 0o600)?;
    replace(&pem(dir, name), &issued.certificate, 0o644)
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|cause| failed("write", path, &cause))
}

fn failed(what: &str, path: &Path, cause: &io::Error) -> Error {
    Error::Usage(format!("cannot {what} {}: {cause}; correct the path, or the rights of the directory", path.display()))
}

fn refused(error: impl ToString) -> Error {
    Error::Usage(error.to_string())
}
