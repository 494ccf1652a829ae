//! `musterd security init` and `musterd cert`: the files for TLS, tokens and policy, made by [`crate::provision`].

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    clock::Clock,
    command::exit::{self, Error},
    provision::{self, Directory},
    terminal::{
        args::parse_duration,
        output::{self, OutputArgs, Table},
    },
    tls::{Subject, describe},
};

/// The names of a daemon unless it is told others: what reaches it on its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(super) const INIT_EXAMPLES: &str = "\
Examples:
  musterd security init tls --name registry.example
  musterd serve --grpc-addr 0.0.0.0:7717 --security-dir tls
  musterd status --addr https://registry.example --ca tls/ca.pem \\
    --token-file tls/operator.token";

pub(super) const EXAMPLES: &str = "\
Examples:
  # Renew the certificate of a daemon; the daemon takes it within seconds
  musterd cert server tls registry.example localhost
  musterd cert client tls router-1
  musterd cert show tls/server.pem";

/// Subcommands of `security`.
#[derive(Debug, clap::Subcommand)]
pub enum SecurityCommand {
    /// Make a CA, a certificate for the daemon, a certificate and a token for an operator, and a policy
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
    #[arg(value_name = "NAME", value_parser = provision::file_name)]
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

pub(super) fn security(command: SecurityCommand) -> Result<u8, Error> {
    let SecurityCommand::Init(InitArgs { dir, name }) = command;
    let mut names = name;
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    for own in host.into_iter().chain(LOCAL_NAMES.map(str::to_owned)) {
        if !own.is_empty() && !names.contains(&own) {
            names.push(own);
        }
    }
    print_paths(&provision::init(&Directory::new(dir), names, Clock::new().wall())?)
}

pub(super) fn run(command: CertCommand) -> Result<u8, Error> {
    match command {
        CertCommand::Server(args) => issue(args.dir, "server", &Subject::Server(args.names), args.valid_for),
        CertCommand::Client(args) => {
            let subject = Subject::Client { name: args.name.clone(), spiffe: args.spiffe };
            issue(args.dir, &args.name, &subject, args.valid_for)
        }
        CertCommand::Show(args) => show(&args),
    }
}

fn issue(dir: PathBuf, name: &str, subject: &Subject, lifetime: Duration) -> Result<u8, Error> {
    print_paths(&provision::issue(&Directory::new(dir), name, subject, lifetime, Clock::new().wall())?)
}

/// Prints the files that were made, one on each line.
pub(super) fn print_paths(paths: &[PathBuf]) -> Result<u8, Error> {
    output::print_text(&paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?;
    Ok(exit::OK)
}

fn show(args: &ShowArgs) -> Result<u8, Error> {
    let path = args.file.clone();
    let text = fs::read(&args.file).map_err(|cause| provision::Error::Io { what: "read", path, cause })?;
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
