//! `musterd bench` on the command line: the client, and how the benchmark ended as an exit code.

use crate::{
    bench::{self, BenchArgs},
    command::{
        client::ClientArgs,
        exit::{self, Error},
    },
};

pub(super) async fn run(args: BenchArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    let is_good = bench::run(args, &client).await?;
    Ok(if is_good { exit::OK } else { exit::NEGATIVE })
}

impl From<bench::Error> for Error {
    fn from(error: bench::Error) -> Self {
        match error {
            bench::Error::Precondition(text) => Self::Precondition(text),
            bench::Error::Usage(text) => Self::Usage(text),
            bench::Error::Registry(error) => Self::Registry(error),
            bench::Error::Io(error) => Self::Io(error),
        }
    }
}
