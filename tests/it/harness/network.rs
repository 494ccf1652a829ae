//! What a test says where no network namespaces can be made.

/// Says loudly what is not tested, and why; fails where `MUSTERD_REQUIRE_NETWORK=1` forbids that.
pub(crate) fn untested(what: &str, why: &str) {
    let is_required = std::env::var_os("MUSTERD_REQUIRE_NETWORK").is_some_and(|value| value == "1");
    assert!(!is_required, "no network can be made: {why}");
    #[expect(clippy::print_stderr, reason = "a test that checks nothing must say so")]
    {
        eprintln!("SKIPPED: no network can be made, so {what}: {why}");
    }
}
