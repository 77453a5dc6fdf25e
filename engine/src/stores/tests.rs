use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{CopyOptions, CredentialProvider, ObjectStoreExt};

use super::*;

/// `allowed/` with a file and a link that leaves it, beside `secret/` with a file.
pub(crate) fn fixture() -> (tempfile::TempDir, Locations) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["allowed", "secret", "allowed/sub"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("f"), name).unwrap();
    }
    std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("allowed/sub/link")).unwrap();
    let locations = Locations::new([dir.path().join("allowed").display().to_string()]).unwrap();
    (dir, locations)
}

async fn names(store: &dyn ObjectStore, path: &Path) -> Vec<String> {
    let files = store.list(Some(path)).try_collect::<Vec<_>>().await.unwrap();
    let mut names: Vec<_> = files.iter().map(|file| file.location.filename().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_store_checks_again_and_knows_no_other_scheme() {
    let (dir, locations) = fixture();
    let registry = locations.registry();
    let store = registry.get_store(&Url::parse("file:///").unwrap()).unwrap();
    let path = |name: &str| Path::from_absolute_path(dir.path().join(name)).unwrap();
    assert!(store.head(&path("allowed/f")).await.is_ok());
    for name in ["secret/f", "allowed/sub/link/f"] {
        let error = store.get(&path(name)).await.unwrap_err();
        assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{error}");
        assert!(store.put(&path(name), "x".into()).await.is_err());
    }
    assert!(store.list(Some(&path("allowed"))).try_collect::<Vec<_>>().await.is_err(), "the link leads outside");
    assert!(store.list(Some(&path("secret"))).try_collect::<Vec<_>>().await.is_err());
    assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());

    registry.register_store(&Url::parse("memory://").unwrap(), Arc::clone(&store));
    for url in ["memory://", "http://example.com", "s3://bucket"] {
        assert!(registry.get_store(&Url::parse(url).unwrap()).is_err());
    }
}

#[tokio::test]
async fn files_are_written_whole_and_only_where_allowed() {
    let (dir, locations) = fixture();
    let store = locations.registry().get_store(&Url::parse("file:///").unwrap()).unwrap();
    let path = |name: &str| Path::from_absolute_path(dir.path().join(name)).unwrap();
    let table = path("allowed/db/t");

    // Parents are made; what is not complete is not seen, and an upload that is given up leaves nothing.
    let mut upload = store.put_multipart(&path("allowed/db/t/dt=1/a")).await.unwrap();
    upload.put_part("12".into()).await.unwrap();
    assert!(names(store.as_ref(), &table).await.is_empty());
    upload.put_part("34".into()).await.unwrap();
    upload.complete().await.unwrap();
    let mut upload = store.put_multipart(&path("allowed/db/t/dt=1/b")).await.unwrap();
    upload.put_part("12".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(names(store.as_ref(), &table).await, ["a"]);
    assert_eq!(std::fs::read_dir(dir.path().join("allowed/db/t/dt=1")).unwrap().count(), 1);
    assert_eq!(store.get(&path("allowed/db/t/dt=1/a")).await.unwrap().bytes().await.unwrap(), "1234");

    store.put(&path("allowed/db/t/c"), "new".into()).await.unwrap();
    store.rename(&path("allowed/db/t/c"), &path("allowed/db/t/dt=2/d")).await.unwrap();
    store.copy_opts(&path("allowed/db/t/dt=2/d"), &path("allowed/db/u/e"), CopyOptions::default()).await.unwrap();
    store.delete(&path("allowed/db/t/dt=1/a")).await.unwrap();
    assert_eq!(names(store.as_ref(), &path("allowed/db")).await, ["d", "e"]);

    for (from, to) in [("allowed/f", "secret/g"), ("secret/f", "allowed/g"), ("allowed/f", "allowed/sub/link/g")] {
        assert!(store.copy(&path(from), &path(to)).await.is_err(), "{from} to {to}");
        assert!(store.rename(&path(from), &path(to)).await.is_err(), "{from} to {to}");
    }
    for name in ["secret/g", "allowed/sub/link/g", "allowed/../secret/g"] {
        let Ok(path) = Path::from_absolute_path(dir.path().join(name)) else { continue };
        assert!(store.put_multipart(&path).await.is_err(), "{name}");
    }
    for name in ["secret/f", "allowed/sub/link/f"] {
        assert!(store.delete(&path(name)).await.is_err(), "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("secret")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_bucket_gives_allowed_objects_only() {
    let memory: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    memory.put(&"raw/t/a".into(), "a".into()).await.unwrap();
    memory.put(&"rawer/b".into(), "b".into()).await.unwrap();
    let locations = Locations::new(["s3://lake/raw".to_owned()]).unwrap();
    // One permit: a request that kept it would stop the next one for ever.
    let bucket = Bucket::new(memory, "s3://lake".to_owned(), locations.clone(), 1, None);
    let streaming = bucket.get(&"raw/t/a".into()).await.unwrap();
    assert_eq!(bucket.get_ranges(&"raw/t/a".into(), std::slice::from_ref(&(0..1))).await.unwrap()[0], "a");
    assert_eq!(streaming.bytes().await.unwrap(), "a");
    bucket.put(&"raw/u/c".into(), "c".into()).await.unwrap();
    assert_eq!(names(&bucket, &"raw".into()).await, ["a", "c"]);
    assert!(bucket.get(&"rawer/b".into()).await.is_err());
    assert!(bucket.put(&"b".into(), "x".into()).await.is_err());
    assert!(bucket.delete(&"rawer/b".into()).await.is_err());
    assert!(bucket.copy(&"rawer/b".into(), &"raw/b".into()).await.is_err());
    for prefix in [None, Some(Path::from("ra")), Some(Path::from("rawer"))] {
        assert!(bucket.list(prefix.as_ref()).try_collect::<Vec<_>>().await.is_err(), "{prefix:?}");
    }
    let url = |text: &str| locations.registry().get_store(&Url::parse(text).unwrap()).map(drop);
    assert!(url("s3://lake").is_ok());
    assert!(matches!(url("s3://other"), Err(DataFusionError::ObjectStore(_))));
}

#[test]
fn stores_that_cannot_work_are_refused() {
    let store = |url: &str| StoreOptions { url: url.to_owned(), ..StoreOptions::default() };
    for good in ["s3://lake", "s3://", "abfss://box@acc.dfs.core.windows.net"] {
        assert!(store(good).validate().is_ok(), "{good}");
    }
    for bad in [store(""), store("http://lake"), store("s3://lake/raw"), StoreOptions { requests_max: 0, ..store("s3://lake") }] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn profiles_are_read_again_and_never_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |key: &str| {
        let text = format!("# keys\n[other]\naws_access_key_id = no\n[etl]\naws_access_key_id = {key}\naws_secret_access_key=s3cret/+=\n");
        std::fs::write(file.path(), text).unwrap();
    };
    write("one");
    let profile = ProfileFile::new(file.path().to_owned(), "etl".to_owned());
    let credential = profile.get_credential().await.unwrap();
    assert_eq!((credential.key_id.as_str(), credential.secret_key.as_str()), ("one", "s3cret/+="));
    write("two");
    file.as_file().set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    assert_eq!(profile.get_credential().await.unwrap().key_id, "two");
    assert!(!format!("{profile:?}").contains("s3cret"), "{profile:?}");

    std::fs::write(file.path(), "[etl]\naws_secret_access_key s3cret").unwrap();
    file.as_file().set_modified(std::time::SystemTime::now() + Duration::from_secs(9)).unwrap();
    let error = profile.get_credential().await.unwrap_err().to_string();
    assert!(error.contains("line 2") && !error.contains("s3cret"), "{error}");
}

#[test]
fn the_shared_credentials_file_comes_after_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".aws/credentials");
    let of = |asked: &str, variables: &[(&str, &str)]| {
        let home = ("HOME", home.path().to_str().unwrap());
        let variable = |name: &str| variables.iter().chain([&home]).find(|(set, _)| *set == name).map(|(_, value)| value.into());
        credentials::shared_profile(asked, variable).map(|(path, profile)| (path == file, profile))
    };
    let found = |profile: &str| Some((true, profile.to_owned()));
    assert_eq!(of("default", &[]), None, "the role of the machine is next");
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(&file, "[etl]\naws_access_key_id = x\naws_secret_access_key = y\n").unwrap();
    assert_eq!(of("default", &[]), None);
    assert_eq!((of("default", &[("AWS_PROFILE", "etl")]), of("etl", &[])), (found("etl"), found("etl")));
    std::fs::write(&file, "[default]\naws_access_key_id = x\naws_secret_access_key = y\n").unwrap();
    assert_eq!(of("default", &[("AWS_ACCESS_KEY_ID", "")]), found("default"));
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
        assert_eq!(of("etl", &[(variable, "x")]), None, "{variable}");
    }
    assert_eq!(of("default", &[("AWS_SHARED_CREDENTIALS_FILE", "/elsewhere"), ("AWS_PROFILE", "a")]), Some((false, "a".to_owned())));
}
