//! Who asks, and with which settings.

use super::*;
use crate::session::session_config;

fn token() -> QueryToken {
    QueryToken { query: QueryId::new("0199-ab_C"), attempt: 2 }
}

#[test]
fn requests_say_who_asks() {
    let (key, wrong) = (Secret::new("k1"), Secret::new("k2"));
    let open = token().headers(None).unwrap();
    assert_eq!(QueryToken::of(&open, None), Ok(token()));
    assert_eq!(QueryToken::of(&open, Some(&key)), Err(TokenError::Key));
    let closed = token().headers(Some(&key)).unwrap();
    assert_eq!(QueryToken::of(&closed, Some(&key)), Ok(token()));
    assert_eq!(QueryToken::of(&closed, Some(&wrong)), Err(TokenError::Key));
    let mut other = closed.clone();
    other.insert(QUERY_HEADER, HeaderValue::from_static("0199-ab_C.3"));
    assert_eq!(QueryToken::of(&other, Some(&key)), Err(TokenError::Key), "a proof is good for one attempt");
    other.insert(PROOF_HEADER, HeaderValue::from_static("zz"));
    assert_eq!(QueryToken::of(&other, Some(&key)), Err(TokenError::Key));
    other.insert(BUILD_HEADER, HeaderValue::from_static("0.0.0"));
    assert_eq!(QueryToken::of(&other, Some(&key)), Err(TokenError::Build { theirs: "0.0.0".to_owned() }));
    for stranger in ["", "q", ".1", "a/b.1", "q.x", "q.-1"] {
        other.insert(QUERY_HEADER, HeaderValue::from_str(stranger).unwrap());
        assert_eq!(QueryToken::of(&other, Some(&key)), Err(TokenError::Stranger), "{stranger}");
    }
    assert_eq!(QueryToken::of(&HeaderMap::new(), None), Err(TokenError::Stranger));
}

#[test]
fn executors_run_with_the_settings_of_the_query() {
    let mut config = session_config(3);
    let options = config.options_mut();
    for (name, value) in [
        ("datafusion.execution.batch_size", "1000"),
        ("datafusion.execution.time_zone", "+05:30"),
        ("datafusion.execution.enable_ansi_mode", "true"),
        ("datafusion.execution.parquet.pushdown_filters", "true"),
        ("datafusion.catalog.default_schema", "sales"),
    ] {
        options.set(name, value).unwrap();
    }
    let sent = changed_options(config.options());
    assert!(!sent.contains("catalog") && !sent.contains("windlass"), "{sent}");
    HeaderValue::from_str(&sent).unwrap();

    let mut task = SessionConfig::default();
    set_options(task.options_mut(), &sent).unwrap();
    let (ours, theirs) = (config.options(), task.options());
    assert_eq!(theirs.execution, ours.execution);
    assert_eq!(theirs.optimizer, ours.optimizer);
    assert_ne!(theirs.catalog.default_schema, "sales");

    for bad in ["datafusion.catalog.location=/etc", "datafusion.execution.nothing=1", "distributed.broadcast_joins=true"] {
        assert!(set_options(&mut ConfigOptions::default(), bad).is_err(), "{bad}");
    }
}
