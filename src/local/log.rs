//! The log file of a private PostgreSQL: bounded, and quoted in errors.
//!
//! The server inherits the open file as its standard error, opened for appending. That works before its
//! configuration is read and after the daemon was killed, neither of which a pipe through the daemon would, and the
//! server's own collector bounds nothing by size that it does not also keep for a week. Appending also allows to cut
//! the file while it is in use: the next write goes to the new end.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::error::{Context, Error};

/// The log is set aside as `.1` when it is longer than this: at most 16 MiB on disk for both, as long as less than
/// 8 MiB arrive between two looks.
const BYTES_MAX: u64 = 8 << 20;

/// How much of the end of a log is worth quoting.
const TAIL_BYTES: u64 = 4 << 10;
const TAIL_LINES: usize = 6;

/// Opens the log for a server and returns how long it already is.
pub(super) fn open(path: &Path) -> Result<(File, u64), Error> {
    trim(path).context("shorten", path)?;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).context("open", path)?;
    let length = file.metadata().context("read", path)?.len();
    Ok((file, length))
}

/// Sets the log aside if it has grown too long. A few lines written meanwhile may be lost.
pub(super) fn trim(path: &Path) -> std::io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > BYTES_MAX => {
            fs::copy(path, path.with_extension("log.1"))?;
            OpenOptions::new().write(true).open(path)?.set_len(0)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The last lines of the log after `from` bytes, on one line.
pub(super) fn tail(path: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    one_line(&read().unwrap_or_default())
}

/// The last lines of what a program printed, on one line.
pub(super) fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines = lines.split_off(lines.len().saturating_sub(TAIL_LINES));
    if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn the_last_lines_are_quoted_on_one_line() {
        assert_eq!(one_line(b"1\n2\n3\n\n4\n5\n6\n  7  \n"), "2; 3; 4; 5; 6; 7");
        assert_eq!(one_line(b"\n"), "it said nothing");
    }
}
