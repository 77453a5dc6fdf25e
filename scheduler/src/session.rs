//! Who is connected, in which database, with which settings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::prelude::SessionConfig;
use metrics::gauge;
use parking_lot::Mutex;
use uuid::Uuid;
use windlass_catalog::catalog::{DEFAULT_DATABASE, ViewDefinition};
use windlass_catalog::names::TemporaryViews;
use windlass_engine::Dialect;
use windlass_engine::session::{SETTABLE, session_config, set_option};
use windlass_proto::{Kind, SessionId};

use crate::engines::Cluster;
use crate::error::{Error, Result};
use crate::metrics::SESSIONS_OPEN;

/// How many sessions there may be, and for how long.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionLimits {
    /// Open sessions; one more ends the one that was unused for longest, and fails if all are at work.
    pub sessions_max: usize,
    /// Seconds without a request after which a session is forgotten.
    pub idle_seconds: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        // A day: a notebook left open over night still has its token in the morning.
        Self { sessions_max: 10_000, idle_seconds: 24 * 60 * 60 }
    }
}

/// Who asks, for `current_user`; nobody where rows are kept that others read.
#[derive(Debug)]
pub struct Asker(pub Option<String>);

/// Temporary views that a session may have.
const TEMPORARY_VIEWS_MAX: usize = 1_000;

/// Statements that a session may have prepared by name.
const PREPARED_MAX: usize = 1_000;

/// One client's current database and settings. Settings apply to statements that start after the change.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    user: String,
    cluster: Arc<dyn Cluster>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    database: String,
    /// Only what differs from the defaults.
    settings: BTreeMap<String, String>,
    temporary_views: Arc<TemporaryViews>,
    /// Texts of `PREPARE`, by lower-case name.
    prepared: BTreeMap<String, String>,
    used: Instant,
}

impl Session {
    fn new(user: &str, cluster: Arc<dyn Cluster>, now: Instant) -> Self {
        let state = State {
            database: DEFAULT_DATABASE.to_owned(),
            settings: BTreeMap::new(),
            temporary_views: Arc::default(),
            prepared: BTreeMap::new(),
            used: now,
        };
        Self { id: SessionId::new(Uuid::new_v4().to_string()), user: user.to_owned(), cluster, state: Mutex::new(state) }
    }

    /// Random, not guessable.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Who opened it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Database that unqualified names belong to.
    pub fn database(&self) -> String {
        self.state.lock().database.clone()
    }

    /// Changes the current database. That it exists is checked by the caller, who has the catalog.
    pub fn set_database(&self, database: impl Into<String>) {
        self.state.lock().database = database.into();
    }

    /// Changes a setting. Errors: `NotFound` for a name that is not settable, `Invalid` for a value that it does not take.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let name = settable(name)?;
        set_option(session_config(1).options_mut(), name, value)?;
        self.state.lock().settings.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Takes a setting, or all, back to its default. Errors: `NotFound`.
    pub fn reset(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) => drop(self.state.lock().settings.remove(settable(name)?)),
            None => self.state.lock().settings.clear(),
        }
        Ok(())
    }

    /// Views that only this session knows.
    pub fn temporary_views(&self) -> Arc<TemporaryViews> {
        Arc::clone(&self.state.lock().temporary_views)
    }

    /// Makes, replaces or, with `None`, forgets a view of this session. Errors: `Exhausted` if there are too many.
    pub fn set_temporary_view(&self, name: &str, view: Option<ViewDefinition>) -> Result<()> {
        let mut state = self.state.lock();
        let views = Arc::make_mut(&mut state.temporary_views);
        match view {
            None => drop(views.remove(name)),
            Some(_) if views.len() >= TEMPORARY_VIEWS_MAX && !views.contains_key(name) => {
                return Err(Error::new(Kind::Exhausted, format!("a session can have {TEMPORARY_VIEWS_MAX} temporary views"))
                    .with_hint("drop some of them, or use CREATE VIEW"));
            }
            Some(view) => drop(views.insert(name.to_owned(), view)),
        }
        Ok(())
    }

    /// The statement that was prepared under a name. Errors: `NotFound`.
    pub fn prepared(&self, name: &str) -> Result<String> {
        let found = self.state.lock().prepared.get(name).cloned();
        found.ok_or_else(|| no_such_prepared(name))
    }

    /// Prepares a statement under a name, in the place of what has it, or with `None` forgets it. Errors: `NotFound`; `Exhausted`.
    pub fn set_prepared(&self, name: &str, text: Option<String>) -> Result<()> {
        let mut state = self.state.lock();
        let prepared = &mut state.prepared;
        match text {
            None => prepared.remove(name).map(drop).ok_or_else(|| no_such_prepared(name)),
            Some(_) if prepared.len() >= PREPARED_MAX && !prepared.contains_key(name) => {
                Err(Error::new(Kind::Exhausted, format!("a session can have {PREPARED_MAX} prepared statements"))
                    .with_hint("forget some of them with DEALLOCATE PREPARE"))
            }
            Some(text) => {
                prepared.insert(name.to_owned(), text);
                Ok(())
            }
        }
    }

    /// In whose SQL the next statement is written, if it does not say otherwise.
    pub fn dialect(&self) -> Dialect {
        let text = self.state.lock().settings.get("windlass.dialect").cloned();
        text.map_or_else(Dialect::default, |text| text.parse().expect("every setting was checked when it was set"))
    }

    /// A setting's value: the session's, or the default. Errors: `NotFound`.
    pub fn get(&self, name: &str) -> Result<String> {
        let name = settable(name)?;
        let value = self.settings().into_iter().find(|(setting, _)| setting == name);
        value.map(|(_, value)| value).ok_or_else(|| Error::internal(format!("setting '{name}' has no value")))
    }

    /// All settings with their values, by name.
    pub fn settings(&self) -> Vec<(String, String)> {
        let entries = self.config().options().entries();
        let settable = entries.into_iter().filter(|entry| SETTABLE.iter().any(|(name, _)| *name == entry.key));
        let mut settings: Vec<_> = settable.map(|entry| (entry.key, entry.value.unwrap_or_default())).collect();
        settings.sort();
        settings
    }

    /// [`Session::config`] with settings for one statement. Errors: those of [`Session::set`].
    pub fn config_with(&self, settings: &[(String, String)]) -> Result<SessionConfig> {
        let mut config = self.config();
        for (name, value) in settings {
            set_option(config.options_mut(), settable(name)?, value)?;
        }
        Ok(config)
    }

    /// What the session's next statement is planned with: defaults for the cluster as it is now, the settings, the current database.
    pub fn config(&self) -> SessionConfig {
        let mut config = session_config(self.cluster.slots());
        let state = self.state.lock();
        let options = config.options_mut();
        for (name, value) in &state.settings {
            set_option(options, name, value).expect("every setting was checked when it was set");
        }
        options.catalog.default_schema.clone_from(&state.database);
        config.with_extension(Arc::new(Asker(Some(self.user.clone()))))
    }
}

fn no_such_prepared(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("prepared statement '{name}' does not exist")).with_hint("write PREPARE name FROM statement first")
}

fn settable(name: &str) -> Result<&'static str> {
    let wanted = name.to_ascii_lowercase();
    let known = SETTABLE.iter().find(|(known, _)| *known == wanted);
    known.map(|(known, _)| *known).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("setting '{name}' does not exist or is not for users to set"))
            .with_hint("SHOW ALL lists the settings")
    })
}

/// All open sessions.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    cluster: Arc<dyn Cluster>,
    open: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(limits: SessionLimits, cluster: Arc<dyn Cluster>) -> Self {
        Self { limits, cluster, open: Mutex::default() }
    }

    /// Opens a session, if need be in the place of the one that was unused for longest. Errors: `Exhausted` when all are at work.
    pub fn open(&self, user: &str) -> Result<Arc<Session>> {
        let now = Instant::now();
        let mut open = self.open.lock();
        if open.len() >= self.limits.sessions_max {
            let idle = Duration::from_secs(self.limits.idle_seconds);
            open.retain(|_, session| now.duration_since(session.state.lock().used) < idle);
        }
        if open.len() >= self.limits.sessions_max {
            // Whoever works has it in hand: a request, or a query that runs.
            let free = open.values().filter(|session| Arc::strong_count(session) == 1);
            let oldest = free.min_by_key(|session| session.state.lock().used).map(|session| session.id.clone());
            let oldest = oldest.ok_or_else(|| {
                Error::new(Kind::Exhausted, format!("all {} sessions are at work", self.limits.sessions_max))
                    .with_hint("try again in a moment, or raise sessions_max")
            })?;
            open.remove(&oldest);
        }
        let session = Arc::new(Session::new(user, Arc::clone(&self.cluster), now));
        open.insert(session.id.clone(), Arc::clone(&session));
        gauge!(SESSIONS_OPEN).set(open.len() as f64);
        Ok(session)
    }

    /// The session, if it is open and was used within [`SessionLimits::idle_seconds`]; this counts as a use.
    pub fn get(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.get_at(id, Instant::now())
    }

    fn get_at(&self, id: &SessionId, now: Instant) -> Option<Arc<Session>> {
        let mut open = self.open.lock();
        let session = Arc::clone(open.get(id)?);
        let mut state = session.state.lock();
        if now.duration_since(state.used) >= Duration::from_secs(self.limits.idle_seconds) {
            open.remove(id);
            gauge!(SESSIONS_OPEN).set(open.len() as f64);
            return None;
        }
        state.used = now;
        drop(state);
        Some(session)
    }

    /// Forgets a session; whether it was open.
    pub fn close(&self, id: &SessionId) -> bool {
        let mut open = self.open.lock();
        let closed = open.remove(id).is_some();
        gauge!(SESSIONS_OPEN).set(open.len() as f64);
        closed
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engines::ExecutorInfo;

    /// A cluster on which nothing can run.
    #[derive(Debug)]
    pub(crate) struct NoExecutors;

    impl Cluster for NoExecutors {
        fn executors(&self) -> Vec<ExecutorInfo> {
            Vec::new()
        }
    }

    #[test]
    fn sessions_are_bounded_and_expire_when_idle() {
        let sessions = Sessions::new(SessionLimits { sessions_max: 1, idle_seconds: 60 }, Arc::new(NoExecutors));
        let session = sessions.open("ada").unwrap();
        assert_eq!(sessions.open("bob").unwrap_err().kind(), Kind::Exhausted, "the one session is in use");
        let later = Instant::now() + Duration::from_secs(59);
        assert!(sessions.get_at(session.id(), later).is_some());
        assert!(sessions.get_at(session.id(), later + Duration::from_secs(59)).is_some(), "a use prolongs the session");
        assert!(sessions.get_at(session.id(), later + Duration::from_secs(60 + 59)).is_none());
        assert!(sessions.open("bob").is_ok());
    }

    #[test]
    fn the_longest_unused_session_makes_room() {
        let sessions = Sessions::new(SessionLimits { sessions_max: 3, idle_seconds: 60 }, Arc::new(NoExecutors));
        let at_work = sessions.open("ada").unwrap();
        let ids: Vec<_> = ["bob", "cyd"].iter().map(|user| sessions.open(user).unwrap().id().clone()).collect();
        sessions.get(&ids[0]);
        sessions.open("dan").unwrap();
        let open = [at_work.id(), &ids[0], &ids[1]].map(|id| sessions.get(id).is_some());
        assert_eq!(open, [true, true, false]);
    }

    #[test]
    fn settings_are_checked_and_reset() {
        let session = Session::new("ada", Arc::new(NoExecutors), Instant::now());
        assert_eq!(session.set("windlass.no_such_thing", "1").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(session.set("windlass.engine", "steam").unwrap_err().kind(), Kind::Invalid);
        session.set("WINDLASS.engine", "local").unwrap();
        assert_eq!(session.get("windlass.engine").unwrap(), "local");
        session.reset(Some("windlass.engine")).unwrap();
        assert_eq!(session.get("windlass.engine").unwrap(), "auto");
        assert_eq!(session.settings().len(), SETTABLE.len());
    }
}
