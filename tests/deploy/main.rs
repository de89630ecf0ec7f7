//! What is under `deploy/` and `.ci/`: it renders, validates, and agrees with itself and with the
//! configuration that the relay really has.

mod cluster;
#[path = "../support/requirement.rs"]
mod requirement;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use mini_rust_desk_relay_server::config::{Config, Overrides, Sources, load};
use serde_json::Value;
use tempfile::TempDir;

const CI_INSTALL: &str = "run .ci/install and put the directory it prints in front of PATH";
const NAME: &str = "mini-rust-desk-relay-server";
/// The API versions that the manifests are written for: the oldest, and the newest with a schema.
const KUBERNETES_VERSIONS: [&str; 2] = ["1.30", "1.37"];

// Kubernetes

#[test]
fn base_renders_and_is_valid() {
    let Some(yaml) = rendered_base() else { return };
    assert!(objects(&yaml).iter().all(|o| o["kind"] != "Secret"), "a key that everybody knows");
    validate(&yaml, &[]);
}

#[test]
fn example_renders_and_is_valid_once_its_secrets_exist() {
    let Some(kubectl) = requirement::program("kubectl", CI_INSTALL) else { return };
    let copy = copy_of("deploy/kubernetes");
    let example = copy.path().join("overlays/example");

    let refused = kustomize(&kubectl, &example);
    assert!(!refused.status.success(), "rendered without a key");
    assert!(text(&refused.stderr).contains("secrets/relay-key"), "{}", text(&refused.stderr));

    fs::create_dir(example.join("secrets")).unwrap();
    fs::write(example.join("secrets/relay-key"), test_key()).unwrap();
    fs::write(example.join("secrets/admin-token"), "a token for this test").unwrap();
    let yaml = successful(kustomize(&kubectl, &example));
    validate(&yaml, &["ServiceMonitor"]);
    names_in_the_example_are_followed(&objects(&yaml));
}

fn names_in_the_example_are_followed(objects: &[Value]) {
    let secret = &one(objects, "Secret")["metadata"]["name"];
    assert_ne!(secret, NAME, "a generated name ends in a hash");
    assert_eq!(volume(&pod(objects), "secrets")["secret"]["secretName"], *secret);

    let monitor = one(objects, "ServiceMonitor");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["authorization"]["credentials"]["name"], *secret);
    assert!(
        one(objects, "Secret")["data"][str_of(&endpoint["authorization"]["credentials"]["key"])]
            .is_string()
    );

    let scraped: Vec<_> = all(objects, "Service")
        .filter(|service| {
            selects(&monitor["spec"]["selector"]["matchLabels"], &service["metadata"])
        })
        .collect();
    assert_eq!(scraped.len(), 1, "it selects the admin Service and no other: {scraped:?}");
    assert_eq!(scraped[0]["spec"]["ports"][0]["name"], endpoint["port"]);
}

#[test]
fn tls_renders_is_valid_and_its_files_are_in_the_pod() {
    let Some(kubectl) = requirement::program("kubectl", CI_INSTALL) else { return };
    let copy = copy_of("deploy/kubernetes");
    let overlay = copy.path().join("overlays/tls");
    fs::create_dir(&overlay).unwrap();
    let uses = "resources: [../../base]\ncomponents: [../../components/tls]\n";
    fs::write(overlay.join("kustomization.yaml"), uses).unwrap();
    let yaml = successful(kustomize(&kubectl, &overlay));
    validate(&yaml, &[]);

    let objects = objects(&yaml);
    let pod = pod(&objects);
    assert_eq!(volume(&pod, "tls")["secret"]["optional"], false);
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let env = env.iter().map(|one| (str_of(&one["name"]).into(), str_of(&one["value"]).into()));
    let tls = settled(None, env.collect()).tls;
    // As every Secret of type kubernetes.io/tls has them.
    let files: Vec<_> = mounts(&pod, "tls", ["tls.crt", "tls.key"].into_iter()).collect();
    assert_eq!(files, [tls.cert, tls.key]);
    let public = all(&objects, "Service").find(|service| service["metadata"]["name"] == NAME);
    assert_eq!(ports(&public.unwrap()["spec"]["ports"], "port"), [21117, 21119, 443]);
}

#[test]
fn a_pod_has_time_to_drain() {
    let Some(yaml) = rendered_base() else { return };
    let objects = objects(&yaml);
    let pod = pod(&objects);
    let sleep = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
    let needed =
        Duration::from_secs(sleep.as_u64().unwrap()) + drain_timeout(&relay_toml(&objects));
    let given = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(given > needed, "{given:?} is no more than the sleep and the drain, {needed:?}");
}

#[test]
fn a_pod_may_do_nothing_but_relay() {
    let Some(yaml) = rendered_base() else { return };
    let objects = objects(&yaml);
    let pod = pod(&objects);
    let relay = &pod["containers"][0];
    assert_eq!(one(&objects, "Deployment")["spec"]["replicas"], 1);
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(relay["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(relay["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(relay["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(volume(&pod, "secrets")["secret"]["optional"], false);
}

#[test]
fn ports_in_the_manifests_are_those_of_the_settings() {
    let Some(yaml) = rendered_base() else { return };
    let objects = objects(&yaml);
    let (pod, settings) = (pod(&objects), config(&relay_toml(&objects)));
    let listens = |addresses: &[std::net::SocketAddr]| -> Vec<u64> {
        addresses.iter().map(|address| address.port().into()).collect()
    };
    let (door, admin) = (listens(&settings.listen), listens(&settings.admin.listen));

    let opened = ports(&pod["containers"][0]["ports"], "containerPort");
    assert_eq!(opened, [door.clone(), admin.clone()].concat());
    let ingress = &one(&objects, "NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ports(&ingress[0]["ports"], "port"), door);
    assert_eq!(ports(&ingress[1]["ports"], "port"), admin);
    assert!(ingress[0]["from"].is_null() && ingress[1]["from"].is_array());
    for service in all(&objects, "Service") {
        let public = service["spec"]["type"] == "LoadBalancer";
        assert_eq!(ports(&service["spec"]["ports"], "port"), if public { &*door } else { &*admin });
        let template = &one(&objects, "Deployment")["spec"]["template"]["metadata"];
        assert!(selects(&service["spec"]["selector"], template));
    }
}

#[test]
fn files_in_the_settings_are_in_the_pod() {
    let Some(yaml) = rendered_base() else { return };
    let objects = objects(&yaml);
    let (pod, settings) = (pod(&objects), config(&relay_toml(&objects)));
    let config_map = one(&objects, "ConfigMap")["data"].as_object().unwrap();
    let items = volume(&pod, "secrets")["secret"]["items"].as_array().unwrap();
    let files: Vec<PathBuf> = mounts(&pod, "config", config_map.keys().map(String::as_str))
        .chain(mounts(&pod, "secrets", items.iter().map(|item| str_of(&item["path"]))))
        .collect();
    let named = Path::new(str_of(&pod["containers"][0]["args"][1]));
    for file in [named, &settings.key_file, &settings.admin.token_file] {
        assert!(files.iter().any(|path| path == file), "{file:?} is not among {files:?}");
    }
}

/// An empty selector selects the whole namespace.
#[test]
fn selectors_select_the_relay() {
    let Some(yaml) = rendered_base() else { return };
    let objects = objects(&yaml);
    let template = &one(&objects, "Deployment")["spec"]["template"]["metadata"];
    for (kind, field) in [
        ("Deployment", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodDisruptionBudget", "selector"),
    ] {
        assert!(selects(&one(&objects, kind)["spec"][field]["matchLabels"], template), "{kind}");
    }
}

// The settings, as the relay itself takes them

#[test]
fn the_relay_accepts_every_configuration_here() {
    let home = tempfile::tempdir().unwrap();
    let (key, token) = (home.path().join("relay-key"), home.path().join("admin-token"));
    fs::write(&key, test_key()).unwrap();
    fs::write(&token, "a token for this test").unwrap();
    let check = || {
        let mut check = Command::new(env!("CARGO_BIN_EXE_mini_rust_desk_relay_server"));
        check.arg("check").current_dir(home.path()).env_clear();
        check
    };

    for file in ["deploy/kubernetes/base/relay.toml", "deploy/systemd/relay.toml"] {
        let mut check = check();
        check.arg("-c").arg(repository().join(file));
        check.env("RELAY__ADMIN__TOKEN_FILE", &token);
        if file.contains("kubernetes") {
            check.env("RELAY__KEY_FILE", &key);
        }
        successful(check.output().unwrap());
    }
    let compose = yaml("deploy/compose.yaml");
    let mut check = check();
    for (name, value) in compose["services"]["relay"]["environment"].as_object().unwrap() {
        let value = str_of(value);
        check.env(name, value.replace("/run/secrets", home.path().to_str().unwrap()));
    }
    let shown = successful(check.output().unwrap());
    assert!(!shown.contains(&test_key()), "check shows the key");
}

// Compose, the Dockerfile, systemd, scripts

#[test]
fn compose_is_valid_and_agrees_with_the_settings() {
    let service = yaml("deploy/compose.yaml")["services"]["relay"].take();
    let span =
        |value: &Value| str_of(value).parse::<jiff::SignedDuration>().unwrap().unsigned_abs();
    let settings = config_of(&service);
    assert!(span(&service["stop_grace_period"]) > settings.shutdown.drain_timeout.get());
    let published: Vec<_> =
        service["ports"].as_array().unwrap().iter().map(|port| published(str_of(port))).collect();
    let listened: Vec<_> = [&*settings.listen, &*settings.admin.listen].concat();
    assert_eq!(published, listened.iter().map(|address| address.port()).collect::<Vec<_>>());

    let Some(check) = requirement::program("check-jsonschema", CI_INSTALL) else { return };
    let schema = ["--builtin-schema", "vendor.compose-spec"];
    successful(run(Command::new(check).args(schema).arg("deploy/compose.yaml")));
}

#[test]
fn yaml_is_tidy() {
    let Some(yamllint) = requirement::program("yamllint", CI_INSTALL) else { return };
    let rules = "{extends: default, rules: {document-start: disable, line-length: {max: 110}, \
                 comments: {min-spaces-from-content: 1}, braces: {max-spaces-inside: 1}}}";
    successful(run(Command::new(yamllint).args(["--strict", "-d", rules, "deploy"])));
}

#[test]
fn dockerfile_is_clean() {
    let Some(hadolint) = requirement::program("hadolint", CI_INSTALL) else { return };
    let lint = ["--failure-threshold", "style", "deploy/Dockerfile"];
    successful(run(Command::new(hadolint).args(lint)));
}

/// What `.dockerignore` lets through is what the build stage copies, and Cargo can read it.
#[test]
fn dockerfile_copies_what_cargo_needs() {
    let ignore = fs::read_to_string(repository().join("deploy/Dockerfile.dockerignore")).unwrap();
    let kept: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let context = tempfile::tempdir().unwrap();
    for path in &kept {
        let place = context.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        copy(&repository().join(path), &place);
    }
    let dockerfile = fs::read_to_string(repository().join("deploy/Dockerfile")).unwrap();
    let copied: Vec<_> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ").filter(|rest| !rest.starts_with("--")))
        .flat_map(|rest| rest.split_whitespace().rev().skip(1))
        .collect();
    assert!(kept.iter().all(|path| copied.contains(path)) && kept.len() == copied.len());

    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    successful(cargo.current_dir(context.path()).output().unwrap());
}

#[test]
fn unit_is_valid_hardened_and_stops_after_the_drain() {
    let unit =
        fs::read_to_string(repository().join(format!("deploy/systemd/{NAME}.service"))).unwrap();
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let stop: jiff::SignedDuration = stop.parse().unwrap();
    let settings = fs::read_to_string(repository().join("deploy/systemd/relay.toml")).unwrap();
    assert!(stop.unsigned_abs() > drain_timeout(&settings));

    let Some(analyze) = requirement::program("systemd-analyze", CI_INSTALL) else { return };
    // verify wants the program to exist.
    let program = env!("CARGO_BIN_EXE_mini_rust_desk_relay_server");
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join(format!("{NAME}.service"));
    fs::write(&file, unit.replace("/usr/local/bin/mini_rust_desk_relay_server", program)).unwrap();

    let verified = run(Command::new(&analyze).args(["verify", "--man=no"]).arg(&file));
    // An unknown key is a warning only, and other units of the machine may have theirs.
    let complaints = text(&verified.stderr);
    assert!(verified.status.success() && !complaints.contains(NAME), "{complaints}");

    // The socket of the same name belongs to it, and holds the ports of the settings.
    let socket = here.path().join(format!("{NAME}.socket"));
    let unit = repository().join(format!("deploy/systemd/{NAME}.socket"));
    fs::copy(&unit, &socket).unwrap();
    let verified = run(Command::new(&analyze).args(["verify", "--man=no"]).arg(&socket));
    let complaints = text(&verified.stderr);
    assert!(verified.status.success() && !complaints.contains(NAME), "{complaints}");
    let unit = fs::read_to_string(unit).unwrap();
    let held = unit.lines().filter_map(|line| line.strip_prefix("ListenStream="));
    let held: Vec<std::net::SocketAddr> = held.map(|addr| addr.parse().unwrap()).collect();
    assert_eq!(held, config(&settings).listen);

    // In tenths: 1.1 today.
    let score = ["security", "--offline=true", "--no-pager", "--threshold=12"];
    successful(run(Command::new(&analyze).args(score).arg(&file)));
}

#[test]
fn scripts_are_clean() {
    let Some(shellcheck) = requirement::program("shellcheck", CI_INSTALL) else { return };
    let scripts: Vec<_> = fs::read_dir(repository().join(".ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::read_to_string(path).is_ok_and(|text| text.starts_with("#!")))
        .collect();
    assert!(!scripts.is_empty());
    successful(run(Command::new(shellcheck).arg("--external-sources").args(scripts)));
}

/// `.deny.toml` is for cargo-deny; this is the part of it that may change with every dependency.
#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    use figment::providers::{Format as _, Toml};
    let rules: Value = Toml::from_path(&repository().join(".deny.toml")).unwrap();
    let allowed: Vec<_> =
        rules["licenses"]["allow"].as_array().unwrap().iter().map(str_of).collect();
    let host = successful(run(Command::new("rustc").args(["--print", "host-tuple"])));
    let mut cargo = Command::new(env!("CARGO"));
    // What other platforms need besides has not been fetched.
    cargo.args(["metadata", "--locked", "--offline", "--format-version", "1"]);
    let listed = run(cargo.args(["--filter-platform", host.trim()]));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let packages = listed["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    // Of what is not ours, one alternative at least, all of which is allowed.
    let is_allowed = |licence: &str| {
        let plain = licence.replace(['(', ')'], "").replace('/', " OR ");
        let mut alternatives = plain.split(" OR ");
        alternatives.any(|all| all.split(" AND ").all(|one| allowed.contains(&one.trim())))
    };
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence), "{} has {licence:?}", package["name"]);
    }
}

// Rendering and validating

fn rendered_base() -> Option<String> {
    let kubectl = requirement::program("kubectl", CI_INSTALL)?;
    Some(successful(kustomize(&kubectl, &repository().join("deploy/kubernetes/base"))))
}

fn kustomize(kubectl: &Path, directory: &Path) -> Output {
    run(Command::new(kubectl).arg("kustomize").arg(directory))
}

/// Against the API's own schemas; `custom` kinds have none there.
fn validate(yaml: &str, custom: &[&str]) {
    let Some(validator) = requirement::program("kubernetes-validate", CI_INSTALL) else { return };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), yaml).expect("the temporary file can be written");
    for version in KUBERNETES_VERSIONS {
        let mut command = Command::new(&validator);
        let said = successful(run(command.args(["--strict", "-k", version]).arg(file.path())));
        // A kind without a schema is only warned of, and a misspelt kind has none.
        for warning in said.lines().filter(|line| line.starts_with("WARN")) {
            assert!(custom.iter().any(|kind| warning.contains(kind)), "{warning}");
        }
    }
}

fn objects(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).expect("kustomize prints YAML")
}

fn all<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = all(objects, kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

fn pod(objects: &[Value]) -> Value {
    one(objects, "Deployment")["spec"]["template"]["spec"].clone()
}

fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let volumes = pod["volumes"].as_array().expect("volumes");
    volumes.iter().find(|volume| volume["name"] == name).expect("the volume")
}

/// Where the files of a volume are in the container.
fn mounts<'a>(
    pod: &Value,
    name: &str,
    files: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = PathBuf> {
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|mount| mount["name"] == name).expect("the mount");
    let directory = PathBuf::from(str_of(&mount["mountPath"]));
    files.map(move |file| directory.join(file))
}

fn relay_toml(objects: &[Value]) -> String {
    str_of(&one(objects, "ConfigMap")["data"]["relay.toml"]).to_owned()
}

fn ports(list: &Value, field: &str) -> Vec<u64> {
    let list = list.as_array().expect("a list of ports");
    list.iter().map(|port| port[field].as_u64().expect("a port")).collect()
}

fn selects(labels: &Value, metadata: &Value) -> bool {
    let labels = labels.as_object().expect("labels");
    !labels.is_empty() && labels.iter().all(|(name, value)| metadata["labels"][name] == *value)
}

// Settings

/// The container's port in `[ADDRESS:]PORT:PORT`.
fn published(port: &str) -> u16 {
    port.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// A configuration file as the relay takes it, with no environment and no word of warning.
fn config(toml: &str) -> Config {
    settled_with(toml, Vec::new())
}

fn settled_with(toml: &str, env: Vec<(String, String)>) -> Config {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), toml).expect("the temporary file can be written");
    settled(Some(file.path().to_owned()), env)
}

/// The same for an environment, as the service in compose.yaml has it.
fn config_of(service: &Value) -> Config {
    let env = service["environment"].as_object().expect("an environment");
    let env = env.iter().map(|(name, value)| (name.clone(), str_of(value).to_owned()));
    settled(None, env.collect())
}

fn settled(file: Option<PathBuf>, env: Vec<(String, String)>) -> Config {
    let nowhere = tempfile::tempdir().expect("a temporary directory");
    let working_dir = nowhere.path().to_owned();
    let sources = Sources { file, working_dir, env, overrides: Overrides::default() };
    let loaded = load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.config
}

fn drain_timeout(toml: &str) -> Duration {
    config(toml).shutdown.drain_timeout.get()
}

/// Has the form of a key, and says what it is.
fn test_key() -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode("tests only: not a key of anyone!")
}

// Files and programs

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(repository().join(path)).expect(path);
    serde_saphyr::from_str(&text).expect(path)
}

fn copy_of(directory: &str) -> TempDir {
    let copied = tempfile::tempdir().expect("a temporary directory");
    copy(&repository().join(directory), copied.path());
    copied
}

/// But for `secrets`: those of a developer are none of a test's business.
fn copy(from: &Path, to: &Path) {
    if from.file_name() == Some(OsStr::new("secrets")) {
        return;
    }
    if from.is_file() {
        fs::copy(from, to).expect("a file can be copied");
        return;
    }
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let path: PathBuf = entry.expect("an entry").path();
        copy(&path, &to.join(path.file_name().expect("a name")));
    }
}

fn run(command: &mut Command) -> Output {
    command.current_dir(repository()).output().expect("the program starts")
}

/// What it printed; it ended well, or the test does not.
fn successful(output: Output) -> String {
    let printed = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{}\n{printed}", output.status);
    printed
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn str_of(value: &Value) -> &str {
    value.as_str().expect("text")
}
