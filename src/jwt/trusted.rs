//! An issuer with the keys in use, and the verification of its tokens.
//!
//! The keys come from [`crate::jwks`], which waits here until they are due. A token with the name of a key that is not there
//! makes them due before their time, at most once in [`UNKNOWN_KEY_PERIOD`]: an issuer publishes a key before it signs with
//! it, but not all do so in time.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    failures::Failures,
    issuer::Issuer,
    json::{Json, Object},
    keys::Keys,
    problem::{Problem, shown},
    token::Token,
};

/// What the clocks of the issuer and of this machine may differ by.
const LEEWAY: TimeDelta = TimeDelta::seconds(30);
/// How often the name of a key that is not there may have the keys fetched.
const UNKNOWN_KEY_PERIOD: Duration = Duration::from_secs(60);
/// The latest time that a token can name, in seconds: the year 9999.
const LATEST: f64 = 253_402_300_799.0;

/// An issuer with its keys.
pub struct Trusted {
    issuer: Issuer,
    keys: ArcSwapOption<Keys>,
    schedule: Mutex<Schedule>,
    wanted: Notify,
}

#[derive(Debug)]
struct Schedule {
    due: Instant,
    /// Whether they were asked for since the latest fetch began.
    asked: bool,
    /// When the name of an unknown key is listened to again.
    listens: Instant,
    /// Why the keys could not be fetched the last time.
    failure: Option<String>,
}

/// What a token has proven.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its holder, in the form of the issuer's template.
    pub identity: String,
    /// Until when it is accepted: when it expires, and what clocks may differ by.
    pub expires: DateTime<Utc>,
    /// By what.
    pub proof: Proof,
}

/// By what a token was verified, to find out later whether that is still trusted.
#[derive(Clone, Debug)]
pub struct Proof {
    issuer: Arc<Trusted>,
    key: [u8; 32],
}

impl Trusted {
    /// An issuer, whose keys are to be fetched.
    #[must_use]
    pub fn new(issuer: Issuer) -> Self {
        let now = Instant::now();
        let schedule = Schedule { due: now, asked: false, listens: now, failure: None };
        Self { issuer, keys: ArcSwapOption::empty(), schedule: Mutex::new(schedule), wanted: Notify::new() }
    }

    /// As the policy has it.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Whether its keys have been fetched once.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.keys.load().is_some()
    }

    /// Takes these keys in use. Returns whether they are others than before.
    pub fn take(&self, keys: Keys) -> bool {
        let keys = Arc::new(keys);
        let before = self.keys.swap(Some(Arc::clone(&keys)));
        self.schedule_mut().failure = None;
        before != Some(keys)
    }

    /// Keeps the keys in use. Returns whether this is another failure than that of the last time.
    pub fn failed(&self, why: &str) -> bool {
        self.schedule_mut().failure.replace(why.to_owned()).as_deref() != Some(why)
    }

    /// Why the keys could not be fetched the last time; `None`: they could, or were not yet.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.schedule_mut().failure.clone()
    }

    /// A fetch has ended: the keys are due after this time, or at once if they were asked for meanwhile.
    pub fn fetch_after(&self, period: Duration) {
        let mut schedule = self.schedule_mut();
        if !schedule.asked {
            schedule.due = Instant::now() + period;
        }
    }

    /// The keys are due now.
    pub fn fetch_now(&self) {
        self.schedule_mut().ask();
        self.wanted.notify_one();
    }

    /// Waits until the keys are due. They stay so until [`Self::fetch_after`]: a fetch that is broken off is made again.
    pub async fn due(&self) {
        loop {
            let due = {
                let mut schedule = self.schedule_mut();
                if schedule.due <= Instant::now() {
                    schedule.asked = false;
                    return;
                }
                schedule.due
            };
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    fn miss(&self, kid: &str) -> Problem {
        let now = Instant::now();
        let mut schedule = self.schedule_mut();
        if schedule.listens <= now {
            schedule.listens = now + UNKNOWN_KEY_PERIOD;
            schedule.ask();
            self.wanted.notify_one();
        }
        Problem::UnknownKey { issuer: self.issuer.name.clone(), kid: shown(kid) }
    }

    fn schedule_mut(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Schedule {
    fn ask(&mut self) {
        (self.due, self.asked) = (Instant::now(), true);
    }
}

impl Proof {
    /// That it is still good under these issuers.
    ///
    /// # Errors
    /// [`Problem::Untrusted`]: the issuer or the key is not there any more.
    pub fn still_good(&self, trusted: &[Arc<Trusted>]) -> Result<(), Problem> {
        let issuer = trusted.iter().find(|it| it.issuer == self.issuer.issuer).ok_or(Problem::Untrusted)?;
        let has_key = issuer.keys.load().as_ref().is_some_and(|keys| keys.has(&self.key));
        if has_key { Ok(()) } else { Err(Problem::Untrusted) }
    }
}

/// What a token proves. It may have expired: the caller of this decides that, and can then name its holder.
///
/// # Errors
/// [`Problem`]. All but the signature is looked at before the signature, which costs time.
pub fn verify(
    trusted: &[Arc<Trusted>],
    text: &str,
    now: DateTime<Utc>,
    failures: &Failures,
    address: u32,
) -> Result<Verified, Problem> {
    let token = Token::parse(text)?;
    let name = text_of(&token.claims, "iss")?;
    let issuer = trusted.iter().find(|it| it.issuer.name == name);
    let issuer = issuer.ok_or_else(|| Problem::UnknownIssuer(shown(name)))?;
    let keys = issuer.keys.load();
    let keys = keys.as_ref().ok_or_else(|| Problem::KeysNotLoaded(name.to_owned()))?;
    let key = keys.get(&token.kid).ok_or_else(|| issuer.miss(&token.kid))?;
    if key.algorithm() != token.algorithm {
        return Err(Problem::AlgorithmOfKey);
    }
    let expires = claims(&issuer.issuer, &token.claims, now)?;
    let identity = issuer.issuer.identity.fill(&token.claims)?;
    if !failures.admits(address, now.timestamp()) {
        return Err(Problem::TooManyFailures);
    }
    if !key.verifies(token.signed, &token.signature) {
        failures.count(address, now.timestamp());
        return Err(Problem::Signature);
    }
    Ok(Verified { identity, expires, proof: Proof { issuer: Arc::clone(issuer), key: key.fingerprint() } })
}

fn text_of<'a>(claims: &'a Object, name: &str) -> Result<&'a str, Problem> {
    let text = claims.get(name).and_then(Json::as_text).filter(|text| !text.is_empty());
    text.ok_or_else(|| Problem::Claim(format!("has no claim {name} that is a text; get one that has")))
}

/// A time in seconds; `None`: the claim is not there.
fn time_of(claims: &Object, name: &str) -> Result<Option<DateTime<Utc>>, Problem> {
    let refuse = || Problem::Claim(format!("has a claim {name} that is no time in seconds; get one that has"));
    match claims.get(name) {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked, and a part of a second is cut off")]
        Some(Json::Number(seconds)) if (0.0..=LATEST).contains(seconds) => {
            DateTime::from_timestamp(*seconds as i64, 0).map(Some).ok_or_else(refuse)
        }
        Some(_) => Err(refuse()),
    }
}

/// Checks all claims but the issuer. Returns until when the token is accepted.
fn claims(issuer: &Issuer, claims: &Object, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    let refuse = |what: String| Err(Problem::Claim(what));
    text_of(claims, "sub")?;
    let is_ours = |value: &Json| value.as_text() == Some(issuer.audience.as_str());
    let for_us = match claims.get("aud") {
        Some(Json::List(audiences)) => {
            audiences.iter().all(|it| it.as_text().is_some()) && audiences.iter().any(is_ours)
        }
        Some(audience) => is_ours(audience),
        None => false,
    };
    if !for_us {
        return refuse(format!("is not for the audience {:?}; get one that is", issuer.audience));
    }
    let Some(expires) = time_of(claims, "exp")? else {
        return refuse("has no claim exp; get one that expires".to_owned());
    };
    if time_of(claims, "nbf")?.is_some_and(|begins| begins > now + LEEWAY) {
        return refuse("is not valid yet; compare the clocks of the issuer and of the daemon".to_owned());
    }
    let longest = TimeDelta::from_std(issuer.max_ttl).unwrap_or(TimeDelta::MAX);
    if expires - now > longest {
        let longest = humantime::format_duration(issuer.max_ttl);
        return refuse(format!("is valid for more than {longest} from now; get a shorter one, or raise max_ttl"));
    }
    Ok(expires + LEEWAY)
}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trusted").field("issuer", &self.issuer.name).finish_non_exhaustive()
    }
}
