//! Who is calling: passwords, signed tokens, and the session a call belongs to.
//!
//! A token says who its bearer is until it expires; its session is only that caller's settings. So a token outlives a restart of the
//! scheduler and a session that was closed or forgotten: the caller then gets a new session, with defaults.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHashString, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use prost::Message;
use sha2::Sha256;
use tokio::sync::Semaphore;
use windlass_engine::config::Secret;
use windlass_proto::{Kind, SessionId};

use crate::error::{Error, Result};
use crate::session::{Session, Sessions};

/// Name of callers who gave none.
const ANONYMOUS: &str = "anonymous";

/// Password checks at once: each takes tens of milliseconds of one core and some 20 MiB.
const VERIFYING_MAX: usize = 2;
/// Password checks that may wait; more callers are told to come back.
const VERIFYING_QUEUE_MAX: usize = 64;
/// How long a verified password is believed without another check.
const VERIFIED_FOR: Duration = Duration::from_secs(60);
/// Verified passwords remembered.
const VERIFIED_MAX: usize = 1024;

/// Drivers disagree: arrow-go leaves the padding out, others send it.
const LENIENT_BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Who may call.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthOptions {
    /// Users by name, each with an argon2 hash of the password in PHC form (`$argon2id$v=19$...`).
    pub users: BTreeMap<String, Secret>,
    /// Lets in callers who give no name. Meant for a port that only this machine reaches.
    pub allow_anonymous: bool,
    /// Seconds until a token expires; a caller who keeps calling gets new ones in time.
    pub token_seconds: u64,
}

impl Default for AuthOptions {
    fn default() -> Self {
        // A day: a notebook left open over night works in the morning.
        Self { users: BTreeMap::new(), allow_anonymous: false, token_seconds: 24 * 60 * 60 }
    }
}

/// Hashes a password for [`AuthOptions::users`].
pub fn hash_password(password: &str) -> Result<String> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|cause| Error::internal(format!("cannot hash a password: {cause}")))
}

/// What a signature is for, so that a ticket is never taken for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Proves who the bearer is.
    Token = 1,
    /// Names a query's rows.
    Ticket = 2,
}

/// The secret under all tokens and tickets of a cluster.
#[derive(Clone)]
pub struct SigningKey([u8; 32]);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// Bytes of a signature.
    const TAG: usize = 32;

    /// A key that dies with the process.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The key kept in a file, which is made with mode 0600 if it is missing; tokens then survive a restart.
    pub fn load_or_create(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut key = [0; 32];
        match std::fs::File::open(path) {
            Ok(mut file) => file.read_exact(&mut key)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                key = rand::random();
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&key)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self(key))
    }

    /// A message with its signature behind it.
    pub fn sign(&self, purpose: Purpose, message: &impl Message) -> Vec<u8> {
        let mut signed = message.encode_to_vec();
        let tag = self.mac(purpose, &signed).finalize().into_bytes();
        signed.extend_from_slice(&tag);
        signed
    }

    /// The message, if this key signed it for this purpose. Takes the same time whatever is wrong with the signature.
    pub fn open<M: Message + Default>(&self, purpose: Purpose, signed: &[u8]) -> Option<M> {
        let (message, tag) = signed.split_at_checked(signed.len().checked_sub(Self::TAG)?)?;
        self.mac(purpose, message).verify_slice(tag).ok()?;
        M::decode(message).ok()
    }

    fn mac(&self, purpose: Purpose, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(&[purpose as u8]);
        mac.update(message);
        mac
    }
}

/// Seconds since 1970, for expiry dates that other processes read too.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[derive(Clone, PartialEq, Message)]
struct Token {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    session: String,
    #[prost(uint64, tag = "3")]
    expires: u64,
    /// [`Authenticator::login`] of the user.
    #[prost(bytes = "vec", tag = "4")]
    login: Vec<u8>,
}

/// What a caller says about itself in the `authorization` header.
#[derive(Debug, PartialEq)]
enum Credentials<'a> {
    None,
    Bearer(&'a str),
    Basic { user: String, password: String },
}

impl<'a> Credentials<'a> {
    fn parse(header: Option<&'a str>) -> Result<Self> {
        let Some(header) = header else { return Ok(Self::None) };
        let malformed = || Error::new(Kind::Unauthenticated, "the authorization header is malformed");
        let (scheme, value) = header.trim().split_once(' ').ok_or_else(malformed)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Self::Bearer(value.trim()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(malformed());
        }
        let decoded = LENIENT_BASE64.decode(value.trim()).map_err(|_| malformed())?;
        let text = String::from_utf8(decoded).map_err(|_| malformed())?;
        let (user, password) = text.split_once(':').ok_or_else(malformed)?;
        Ok(Self::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

/// A caller who was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its session.
    pub session: Arc<Session>,
    /// A token to hand out with the answer, if the caller has none or will soon need another.
    pub token: Option<String>,
}

/// Lets callers in.
pub struct Authenticator {
    users: HashMap<String, PasswordHashString>,
    /// Checked when the user is unknown, so that the answer takes as long as for a known one.
    decoy: PasswordHashString,
    allow_anonymous: bool,
    token_seconds: u64,
    key: SigningKey,
    verifying: Arc<Semaphore>,
    verifying_queue: Semaphore,
    verified: Mutex<HashMap<[u8; 32], Instant>>,
    /// Sessions of callers whose requests do not name a live one: those without a token, by connection, and those whose session ended.
    adopted: Mutex<HashMap<[u8; 32], Weak<Session>>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("users", &self.users.len())
            .field("allow_anonymous", &self.allow_anonymous)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Errors: `Invalid` for a hash that is none, or if nobody could ever be let in.
    pub fn new(options: &AuthOptions, key: SigningKey) -> Result<Self> {
        let users = options.users.iter().map(|(name, hash)| {
            let hash = PasswordHashString::new(hash.expose()).map_err(|cause| {
                Error::invalid(format!("the password hash of user '{name}' is not an argon2 hash in PHC form: {cause}"))
            })?;
            Ok((name.clone(), hash))
        });
        let users = users.collect::<Result<HashMap<_, _>>>()?;
        if users.is_empty() && !options.allow_anonymous {
            return Err(Error::invalid("no users are configured and anonymous callers are not allowed")
                .with_hint("add a user with a password hash"));
        }
        let decoy = match users.values().next() {
            Some(hash) => hash.clone(),
            None => PasswordHashString::new(&hash_password("decoy")?).map_err(|cause| Error::internal(cause.to_string()))?,
        };
        Ok(Self {
            users,
            decoy,
            allow_anonymous: options.allow_anonymous,
            token_seconds: options.token_seconds,
            key,
            verifying: Arc::new(Semaphore::new(VERIFYING_MAX)),
            verifying_queue: Semaphore::new(VERIFYING_QUEUE_MAX),
            verified: Mutex::default(),
            adopted: Mutex::default(),
        })
    }

    /// The caller behind a request with this `authorization` header from this peer.
    ///
    /// Errors: `Unauthenticated`; `Exhausted` when too many passwords wait for their check or too many sessions are open.
    pub async fn admit(&self, sessions: &Sessions, header: Option<&str>, peer: Option<SocketAddr>) -> Result<Caller> {
        match Credentials::parse(header)? {
            Credentials::Bearer(token) => self.by_token(sessions, token),
            Credentials::Basic { user, password } => {
                self.verify(&user, password.clone()).await?;
                self.adopt(sessions, &user, &[&peer_bytes(peer), user.as_bytes(), password.as_bytes()])
            }
            Credentials::None => {
                self.anonymous_allowed()?;
                self.adopt(sessions, ANONYMOUS, &[&peer_bytes(peer)])
            }
        }
    }

    /// The token for a caller that shakes hands: a new session, except for one that brings a token.
    pub async fn handshake(&self, sessions: &Sessions, header: Option<&str>) -> Result<String> {
        let user = match Credentials::parse(header)? {
            Credentials::Bearer(token) => return Ok(self.by_token(sessions, token)?.token.unwrap_or_else(|| token.to_owned())),
            Credentials::Basic { user, password } => {
                self.verify(&user, password).await?;
                user
            }
            Credentials::None => {
                self.anonymous_allowed()?;
                ANONYMOUS.to_owned()
            }
        };
        Ok(self.token(sessions.open(&user)?.as_ref()))
    }

    fn anonymous_allowed(&self) -> Result<()> {
        match self.allow_anonymous {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Unauthenticated, "credentials are required").with_hint("connect with a user name and a password"))
            }
        }
    }

    fn by_token(&self, sessions: &Sessions, token: &str) -> Result<Caller> {
        let refused = |why: &str| Error::new(Kind::Unauthenticated, why).with_hint("connect again");
        let signed =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).map_err(|_| refused("the bearer token is not valid"))?;
        let Token { user, session, expires, login } =
            self.key.open(Purpose::Token, &signed).ok_or_else(|| refused("the bearer token is not valid"))?;
        if self.login(&user) != Some(login) {
            return Err(refused("the user of the bearer token is gone, or has another password now"));
        }
        let left = expires.saturating_sub(unix_seconds());
        // A live session was used not long ago: its caller may keep the old token as long as it keeps calling.
        if let Some(live) = sessions.get(&SessionId::new(&session)).filter(|live| live.user() == user) {
            let token = (left <= self.token_seconds / 2).then(|| self.token(&live));
            return Ok(Caller { session: live, token });
        }
        if left == 0 {
            return Err(refused("the bearer token has expired"));
        }
        self.adopt(sessions, &user, &[session.as_bytes()])
    }

    /// The session that earlier requests of the same origin got, or a new one.
    fn adopt(&self, sessions: &Sessions, user: &str, origin: &[&[u8]]) -> Result<Caller> {
        let origin = self.digest(origin);
        // All the while: requests that come at the same time belong together, too.
        let mut adopted = self.adopted.lock();
        let known = adopted.get(&origin).and_then(Weak::upgrade);
        let live = known.and_then(|session| sessions.get(session.id()));
        let session = match live.filter(|session| session.user() == user) {
            Some(session) => session,
            None => {
                let session = sessions.open(user)?;
                // Bounded by the number of open sessions, which has its own limit.
                adopted.retain(|_, session| session.strong_count() > 0);
                adopted.insert(origin, Arc::downgrade(&session));
                session
            }
        };
        Ok(Caller { token: Some(self.token(&session)), session })
    }

    /// What a user's tokens are bound to, so that they end with the password; `None` for those who are not let in.
    fn login(&self, user: &str) -> Option<Vec<u8>> {
        match self.users.get(user) {
            Some(hash) => Some(self.digest(&[hash.as_str().as_bytes()]).into()),
            None => (self.allow_anonymous && user == ANONYMOUS).then(Vec::new),
        }
    }

    fn token(&self, session: &Session) -> String {
        let token = Token {
            user: session.user().to_owned(),
            session: session.id().to_string(),
            expires: unix_seconds() + self.token_seconds,
            login: self.login(session.user()).unwrap_or_default(),
        };
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.key.sign(Purpose::Token, &token))
    }

    /// Checks a password on a thread of its own; the work is the same for users that do not exist.
    async fn verify(&self, user: &str, password: String) -> Result<()> {
        if self.allow_anonymous && user == ANONYMOUS && !self.users.contains_key(user) {
            return Ok(());
        }
        let digest = self.digest(&[user.as_bytes(), password.as_bytes()]);
        if self.verified.lock().get(&digest).is_some_and(|at| at.elapsed() < VERIFIED_FOR) {
            return Ok(());
        }
        let busy = || Error::new(Kind::Exhausted, "too many logins at once").with_hint("try again in a second");
        let _queued = self.verifying_queue.try_acquire().map_err(|_| busy())?;
        let permit = Arc::clone(&self.verifying).acquire_owned().await.map_err(|_| busy())?;
        let known = self.users.get(user);
        let hash = known.unwrap_or(&self.decoy).clone();
        let matches = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Argon2::default().verify_password(password.as_bytes(), &hash.password_hash()).is_ok()
        });
        let matches = matches.await.map_err(|cause| Error::internal(format!("the password check died: {cause}")))?;
        if known.is_none() || !matches {
            return Err(Error::new(Kind::Unauthenticated, format!("wrong user name or password for user '{user}'")));
        }
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.retain(|_, at| at.elapsed() < VERIFIED_FOR);
        }
        if verified.len() < VERIFIED_MAX {
            verified.insert(digest, Instant::now());
        }
        Ok(())
    }

    /// Keyed, so that what is kept in memory says nothing about a password.
    fn digest(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key.0).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Callers without a token are told apart by their connection.
fn peer_bytes(peer: Option<SocketAddr>) -> Vec<u8> {
    peer.map(|peer| peer.to_string()).unwrap_or_default().into_bytes()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::session::SessionLimits;
    use crate::session::tests::NoExecutors;

    fn sessions() -> Sessions {
        Sessions::new(SessionLimits::default(), Arc::new(NoExecutors))
    }

    fn basic(text: &str, engine: &GeneralPurpose) -> String {
        format!("Basic {}", engine.encode(text))
    }

    fn authenticator(allow_anonymous: bool, token_seconds: u64) -> Authenticator {
        let users = [("ada".to_owned(), Secret::new(hash_password("lovelace").expect("hash")))].into();
        let options = AuthOptions { users, allow_anonymous, token_seconds };
        Authenticator::new(&options, SigningKey([7; 32])).expect("options are right")
    }

    #[tokio::test]
    async fn passwords_padded_or_not_lead_to_a_token_and_a_session() {
        let (auth, sessions) = (authenticator(false, 60), sessions());
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::STANDARD_NO_PAD] {
            let token = auth.handshake(&sessions, Some(&basic("ada:lovelace", &engine))).await.expect("right password");
            let caller = auth.admit(&sessions, Some(&format!("Bearer {token}")), None).await.expect("fresh token");
            assert_eq!(caller.session.user(), "ada");
        }
        let wrong = ["ada:loveless", "bob:lovelace", "ada", "anonymous:"];
        for text in wrong {
            let header = basic(text, &base64::engine::general_purpose::STANDARD);
            let error = auth.handshake(&sessions, Some(&header)).await.expect_err(text);
            assert_eq!(error.kind(), Kind::Unauthenticated, "{text}");
        }
        for header in [None, Some("Basic !!!"), Some("Bearer AAAA"), Some("Digest x"), Some("")] {
            assert_eq!(auth.admit(&sessions, header, None).await.expect_err("refused").kind(), Kind::Unauthenticated, "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_caller_without_a_token_keeps_its_session_while_its_connection_lasts() {
        let (auth, sessions) = (authenticator(true, 60), sessions());
        let session = |peer: &str| {
            let peer = peer.parse().ok();
            let (auth, sessions) = (&auth, &sessions);
            async move { auth.admit(sessions, None, peer).await.expect("anonymous").session.id().clone() }
        };
        let first = session("127.0.0.1:1000").await;
        assert_eq!(first, session("127.0.0.1:1000").await);
        assert_ne!(first, session("127.0.0.1:1001").await);
    }

    #[test]
    fn calls_that_come_together_over_one_connection_share_a_session() {
        let (auth, sessions) = (authenticator(true, 60), sessions());
        let call = || {
            let caller = auth.admit(&sessions, None, "127.0.0.1:1000".parse().ok()).now_or_never();
            caller.expect("nothing to wait for").expect("anonymous").session.id().clone()
        };
        let ids: Vec<_> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..16).map(|_| scope.spawn(call)).collect();
            calls.into_iter().map(|call| call.join().expect("no panic")).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[tokio::test]
    async fn a_token_outlives_its_session_but_not_its_expiry() {
        let sessions = sessions();
        for (token_seconds, survives) in [(60, true), (0, false)] {
            let auth = authenticator(true, token_seconds);
            let session = sessions.open("ada").expect("open");
            let header = format!("Bearer {}", auth.token(&session));
            let caller = auth.admit(&sessions, Some(&header), None).await.expect("a live session keeps its token valid");
            assert_eq!(caller.session.id(), session.id());
            assert_eq!(caller.token.is_some(), !survives, "an old token is renewed");
            sessions.close(session.id());
            let again = auth.admit(&sessions, Some(&header), None).await;
            assert_eq!(again.is_ok_and(|caller| caller.session.user() == "ada"), survives);
        }
    }

    #[tokio::test]
    async fn a_token_ends_with_the_password_and_the_user() {
        let (sessions, before) = (sessions(), authenticator(false, 60));
        let header = format!("Bearer {}", before.token(&sessions.open("ada").unwrap()));
        before.admit(&sessions, Some(&header), None).await.unwrap();
        let nobody = AuthOptions { allow_anonymous: true, ..AuthOptions::default() };
        for after in [authenticator(false, 60), Authenticator::new(&nobody, SigningKey([7; 32])).unwrap()] {
            assert_eq!(after.admit(&sessions, Some(&header), None).await.unwrap_err().kind(), Kind::Unauthenticated);
        }
    }

    #[test]
    fn a_signature_holds_for_one_purpose_and_every_byte() {
        let key = SigningKey::random();
        let token = Token { user: "ada".into(), session: "s".into(), expires: 1, login: vec![1] };
        let signed = key.sign(Purpose::Token, &token);
        assert_eq!(key.open(Purpose::Token, &signed), Some(token));
        assert_eq!(key.open::<Token>(Purpose::Ticket, &signed), None);
        for i in 0..signed.len() {
            let mut forged = signed.clone();
            forged[i] ^= 1;
            assert_eq!(key.open::<Token>(Purpose::Token, &forged), None, "byte {i}");
        }
        assert_eq!(key.open::<Token>(Purpose::Token, &[0; 31]), None);
    }
}
