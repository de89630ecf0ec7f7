//! More than one node: what `deploy/kubernetes`, the compose file and the balancers' configurations
//! have for it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{config::Config, metrics};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    CI_INSTALL, KUBERNETES_VERSIONS, NAME, all, config_of, copy_of, kustomize, objects, one, pod,
    ports, relay_toml, repository, requirement, run, selects, settled_with, str_of, successful,
    test_key, text, validate, volume, yaml,
};

const SECRETS: [&str; 4] = ["relay-key", "admin-token", "cluster-secret", "redis-password"];

/// The example, with secrets of this test's own.
fn rendered() -> Option<Vec<Value>> {
    let kubectl = requirement::program("kubectl", CI_INSTALL)?;
    let copy = copy_of("deploy/kubernetes");
    let overlay = copy.path().join("overlays/cluster");
    make_secrets(&overlay);
    Some(objects(&successful(kustomize(&kubectl, &overlay))))
}

fn make_secrets(overlay: &Path) {
    fs::create_dir(overlay.join("secrets")).expect("it can be done");
    for name in SECRETS {
        fs::write(overlay.join("secrets").join(name), test_key()).expect("it can be done");
    }
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = all(objects, kind).filter(|object| object["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn deployment(objects: &[Value]) -> &Value {
    named(objects, "Deployment", NAME)
}

fn relay_pod(objects: &[Value]) -> Value {
    pod(&[deployment(objects).clone()])
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().expect("seconds"))
}

/// The container's environment as the kubelet makes it: what is referred to must stand before.
fn environment(container: &Value, given: impl Fn(&Value) -> String) -> Vec<(String, String)> {
    let mut known: Vec<(String, String)> = Vec::new();
    for entry in container["env"].as_array().expect("an environment") {
        let mut value = match &entry["valueFrom"] {
            Value::Null => str_of(&entry["value"]).to_owned(),
            from => given(from),
        };
        for (name, earlier) in &known {
            value = value.replace(&format!("$({name})"), earlier);
        }
        assert!(!value.contains("$("), "{value} refers to what is not known there");
        known.push((str_of(&entry["name"]).to_owned(), value));
    }
    known
}

/// What a Pod is told of itself, and what its Secret has.
fn of_a_pod(from: &Value) -> String {
    match (from["fieldRef"]["fieldPath"].as_str(), from["secretKeyRef"]["key"].as_str()) {
        (Some("metadata.name"), _) => format!("{NAME}-7d9f8b6c5d-x2x9z"),
        (Some("status.podIP"), _) => "10.1.2.3".to_owned(),
        (_, Some("redis-password")) => "0123456789abcdef".to_owned(),
        (_, Some("redis-url")) => "rediss://:p@redis.example.invalid:6379/0".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn settings(objects: &[Value]) -> Config {
    let env = environment(&relay_pod(objects)["containers"][0], of_a_pod);
    let ours = env.into_iter().filter(|(name, _)| name.starts_with("RELAY__")).collect();
    settled_with(&relay_toml(objects), ours)
}

#[test]
fn it_renders_and_is_valid_once_its_secrets_exist() {
    let Some(kubectl) = requirement::program("kubectl", CI_INSTALL) else { return };
    let copy = copy_of("deploy/kubernetes");
    let overlay = copy.path().join("overlays/cluster");
    let refused = kustomize(&kubectl, &overlay);
    assert!(!refused.status.success(), "rendered without secrets");
    make_secrets(&overlay);
    for name in SECRETS {
        let file = overlay.join("secrets").join(name);
        fs::rename(&file, copy.path().join("away")).unwrap();
        let refused = kustomize(&kubectl, &overlay);
        assert!(!refused.status.success(), "rendered without {name}");
        assert!(text(&refused.stderr).contains(&format!("secrets/{name}")));
        fs::rename(copy.path().join("away"), &file).unwrap();
    }
    validate(&successful(kustomize(&kubectl, &overlay)), &["ServiceMonitor"]);
}

#[test]
fn a_pod_is_a_node_by_its_own_name_and_address() {
    let Some(objects) = rendered() else { return };
    let settings = settings(&objects);
    let cluster = &settings.cluster;
    assert!(cluster.is_on());
    assert_eq!(cluster.node, format!("{NAME}-7d9f8b6c5d-x2x9z"));
    assert_eq!(cluster.advertise, "10.1.2.3:21127");
    assert_eq!(cluster.redis.expose(), format!("redis://:0123456789abcdef@{NAME}-redis:6379/0"));

    let pod = relay_pod(&objects);
    let opened = ports(&pod["containers"][0]["ports"], "containerPort");
    assert!(opened.contains(&cluster.listen[0].port().into()), "{opened:?}");
    let secret = volume(&pod, "cluster")["secret"].clone();
    assert_eq!(secret["optional"], false);
    let mounted = Path::new("/run/secrets/cluster").join(str_of(&secret["items"][0]["path"]));
    assert_eq!(cluster.secret_file, mounted);
    let made = named(&objects, "Secret", str_of(&secret["secretName"]));
    for entry in ["secret", "redis-password"] {
        assert!(made["data"][entry].is_string(), "{entry}");
    }
}

/// Without Redis beside it, and without autoscaling: what the component itself has.
#[test]
fn a_redis_of_ones_own_is_named_by_the_secret() {
    let Some(kubectl) = requirement::program("kubectl", CI_INSTALL) else { return };
    let copy = copy_of("deploy/kubernetes");
    let overlay =
        overlay(&copy, "resources: [../../base]\ncomponents: [../../components/cluster]\n");
    let rendered = successful(kustomize(&kubectl, &overlay));
    validate(&rendered, &[]);
    let objects = objects(&rendered);
    let redis = settings(&objects).cluster.redis;
    assert_eq!(redis.expose(), "rediss://:p@redis.example.invalid:6379/0");
    assert_eq!(deployment(&objects)["spec"]["replicas"], 3);
    assert!(all(&objects, "Secret").next().is_none(), "a secret that everybody knows");
}

#[test]
fn pods_with_ipv6_addresses_are_patched_as_the_readme_says() {
    let Some(kubectl) = requirement::program("kubectl", CI_INSTALL) else { return };
    let readme = fs::read_to_string(repository().join("deploy/kubernetes/README.md")).unwrap();
    let (_, patch) = readme.split_once("```yaml\npatches:").expect("the patch for IPv6");
    let patch = patch.split("```").next().unwrap();
    let copy = copy_of("deploy/kubernetes");
    let uses =
        format!("resources: [../../base]\ncomponents: [../../components/cluster]\npatches:{patch}");
    let objects = objects(&successful(kustomize(&kubectl, &overlay(&copy, &uses))));
    let env = environment(&relay_pod(&objects)["containers"][0], |from| {
        match from["fieldRef"]["fieldPath"].as_str() {
            Some("status.podIP") => "fd00::7".to_owned(),
            _ => of_a_pod(from),
        }
    });
    let ours = env.into_iter().filter(|(name, _)| name.starts_with("RELAY__")).collect();
    let advertise = settled_with(&relay_toml(&objects), ours).cluster.advertise;
    assert_eq!(advertise, "[fd00::7]:21127");
}

fn overlay(copy: &TempDir, kustomization: &str) -> std::path::PathBuf {
    let overlay = copy.path().join("overlays/of-a-test");
    fs::create_dir(&overlay).expect("it can be done");
    fs::write(overlay.join("kustomization.yaml"), kustomization).expect("it can be done");
    overlay
}

#[test]
fn a_roll_out_gives_legs_time_to_meet_and_relays_time_to_end() {
    let Some(objects) = rendered() else { return };
    let (pod, settings) = (relay_pod(&objects), settings(&objects));
    let sleep = seconds(&pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]);
    assert!(sleep >= Duration::from_secs(5), "balancers still send people there");
    let drain = settings.shutdown.drain_timeout.get();
    assert!(drain > settings.pairing.timeout.get(), "who waits is cut off by the end of the drain");
    let given = seconds(&pod["terminationGracePeriodSeconds"]);
    assert!(given > sleep + drain, "{given:?}");

    let strategy = &deployment(&objects)["spec"]["strategy"]["rollingUpdate"];
    assert_eq!((&strategy["maxUnavailable"], &strategy["maxSurge"]), (&0.into(), &1.into()));
    assert_eq!(one(&objects, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    let scaler = &one(&objects, "HorizontalPodAutoscaler")["spec"];
    let down = &scaler["behavior"]["scaleDown"];
    assert_eq!(down["policies"][0]["value"], 1);
    assert!(seconds(&down["policies"][0]["periodSeconds"]) >= given, "it has drained by then");
    assert!(seconds(&down["stabilizationWindowSeconds"]) >= given);
    assert!(scaler["minReplicas"].as_u64() >= Some(2), "one is no cluster");
    assert!(deployment(&objects)["spec"]["replicas"].is_null(), "two that decide how many");
    assert_eq!(scaler["scaleTargetRef"]["name"], deployment(&objects)["metadata"]["name"]);
}

#[test]
fn pods_are_spread_and_clients_go_to_any() {
    let Some(objects) = rendered() else { return };
    let template = &deployment(&objects)["spec"]["template"];
    let spread = template["spec"]["topologySpreadConstraints"].as_array().unwrap();
    let keys: Vec<_> = spread.iter().map(|one| str_of(&one["topologyKey"])).collect();
    assert_eq!(keys, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    for constraint in spread {
        assert!(selects(&constraint["labelSelector"]["matchLabels"], &template["metadata"]));
    }
    let public = named(&objects, "Service", NAME);
    assert_eq!(public["spec"]["sessionAffinity"], "None");
    assert!(selects(&public["spec"]["selector"], &template["metadata"]));
}

/// Who may dial whom: `(from, to, port)` of what the policies allow between Pods here.
#[test]
fn the_clusters_port_and_redis_are_open_to_the_relay_alone() {
    let Some(objects) = rendered() else { return };
    let relay = &deployment(&objects)["spec"]["template"]["metadata"];
    let redis_name = format!("{NAME}-redis");
    let redis = &named(&objects, "Deployment", &redis_name)["spec"]["template"]["metadata"];
    let settings = settings(&objects);
    let cluster_port = u64::from(settings.cluster.listen[0].port());

    let (mut into, mut out) = (Vec::new(), Vec::new());
    for policy in all(&objects, "NetworkPolicy") {
        let target = &policy["spec"]["podSelector"]["matchLabels"];
        for (rules, peers, found) in [("ingress", "from", &mut into), ("egress", "to", &mut out)] {
            for rule in policy["spec"][rules].as_array().into_iter().flatten() {
                for port in ports(&rule["ports"], "port") {
                    found.push((target, rule[peers].clone(), port));
                }
            }
        }
    }
    for (target, port) in [(relay, cluster_port), (redis, 6379)] {
        let doors: Vec<_> =
            into.iter().filter(|door| door.2 == port && selects(door.0, target)).collect();
        assert_eq!(doors.len(), 1, "{port}");
        let from = doors[0].1.as_array().expect("not from anywhere");
        assert_eq!(from.len(), 1, "{port}");
        assert!(from[0]["namespaceSelector"].is_null(), "{port}");
        let labels = &from[0]["podSelector"]["matchLabels"];
        assert!(selects(labels, relay) && !selects(labels, redis), "{port}");
        let dials = out.iter().any(|way| {
            let labels = &way.1[0]["podSelector"]["matchLabels"];
            way.2 == port && selects(way.0, relay) && labels.is_object() && selects(labels, target)
        });
        assert!(dials, "the relay may not dial {port}");
    }
    // Redis has one policy, both ways, and dials nobody.
    let of_redis = named(&objects, "NetworkPolicy", &redis_name);
    assert_eq!(of_redis["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    assert!(of_redis["spec"]["egress"].is_null());
}

// What is scaled by

#[test]
fn it_is_scaled_by_what_the_relay_exports_and_the_adapter_makes_of_it() {
    let Some(objects) = rendered() else { return };
    let (_metrics, exposition) = metrics::start().unwrap();
    let exported = exposition.render(&[]);
    let adapter = yaml("deploy/kubernetes/components/autoscaling/adapter-rules.yaml");
    let rules = adapter["rules"]["custom"].as_array().unwrap();
    for metric in one(&objects, "HorizontalPodAutoscaler")["spec"]["metrics"].as_array().unwrap() {
        let name = &metric["pods"]["metric"]["name"];
        let rule = rules.iter().find(|rule| rule["name"]["as"] == *name);
        let rule = rule.unwrap_or_else(|| panic!("no rule makes {name}"));
        let series = series_of(rule);
        assert_eq!(rule["name"]["matches"], format!("^{series}$"));
        let query = str_of(&rule["metricsQuery"]);
        let others = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let others = others.filter(|word| word.starts_with("relay_"));
        for series in others.chain([series]) {
            let is_there = |line: &str| line.split([' ', '{']).next() == Some(series);
            assert!(exported.lines().any(is_there), "the relay has no {series}");
        }
    }
}

fn series_of(rule: &Value) -> &str {
    str_of(&rule["seriesQuery"]).split('{').next().expect("a name")
}

/// The queries that the adapter makes of its templates, asked of Prometheus' own engine.
#[test]
fn the_adapters_queries_add_up_what_a_pod_has() {
    let Some(promtool) = requirement::program("promtool", CI_INSTALL) else { return };
    let adapter = yaml("deploy/kubernetes/components/autoscaling/adapter-rules.yaml");
    let query = |rule: &Value| {
        let query = str_of(&rule["metricsQuery"]);
        let query = query.replace("<<.Series>>", series_of(rule));
        let query = query.replace("<<.LabelMatchers>>", "namespace=\"n\",pod=~\"a|b\"");
        query.replace("<<.GroupBy>>", "pod")
    };
    let rules = adapter["rules"]["custom"].as_array().unwrap();
    let labels = |pod, transport| {
        format!("{{namespace: \"n\", pod: \"{pod}\", transport: \"{transport}\"}}")
    };
    let series = |name: &str, pod, transport, values| {
        let labels = labels(pod, transport).replace(": ", "=");
        format!("      - {{series: '{name}{labels}', values: '{values}'}}\n")
    };
    let expect = |rule, values: [(&str, f64); 2]| {
        let samples = values
            .map(|(pod, value)| format!("{{labels: '{{pod=\"{pod}\"}}', value: {value}}}"))
            .join(", ");
        let query = query(rule);
        format!("      - {{expr: '{query}', eval_time: 4m, exp_samples: [{samples}]}}\n")
    };
    let test = format!(
        "tests:\n  - interval: 1m\n    input_series:\n{}{}{}{}{}{}{}    promql_expr_test:\n{}{}",
        series("relay_active_relays", "a", "tcp", "3+0x5"),
        series("relay_active_relays", "a", "mixed", "4+0x5"),
        series("relay_active_relays", "b", "tcp", "1+0x5"),
        series("relay_received_bytes_total", "a", "tcp", "0+600x5"),
        series("relay_received_bytes_total", "b", "tcp", "0+6000x5"),
        series("relay_cluster_carried_bytes_total", "a", "none", "0+60x5"),
        series("relay_cluster_carried_bytes_total", "b", "none", "0+0x5"),
        expect(&rules[0], [("a", 7.0), ("b", 1.0)]),
        expect(&rules[1], [("a", 11.0), ("b", 100.0)]),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), test).unwrap();
    successful(run(Command::new(promtool).args(["test", "rules"]).arg(file.path())));
}

// Redis

/// With the arguments of the manifest and of the compose file, which Valkey takes as well.
#[test]
fn redis_takes_its_arguments_and_writes_nothing() {
    let Some(program) = requirement::program("redis-server", CI_INSTALL) else { return };
    let compose = yaml("deploy/compose.cluster.yaml");
    let words = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("arguments").iter();
        list.map(|word| str_of(word).replace("$(REDIS_PASSWORD)", "a-password")).collect()
    };
    let open = words(&compose["services"]["redis"]["command"]);
    answers(&program, &open[1..], &[("PING\r\n", "+PONG")]);

    let Some(objects) = rendered() else { return };
    let pod = pod(&[named(&objects, "Deployment", &format!("{NAME}-redis")).clone()]);
    let container = &pod["containers"][0];
    assert_eq!(container["command"][0], *open[0]);
    let locked = words(&container["args"]);
    let asked = [
        ("PING\r\n", "-NOAUTH"),
        ("AUTH a-password\r\n", "+OK"),
        ("SET name value PX 30000\r\n", "+OK"),
        ("CONFIG GET save\r\n", "*2"),
    ];
    answers(&program, &locked, &asked);
    // It is where the relay looks for it.
    let service = named(&objects, "Service", &format!("{NAME}-redis"));
    assert_eq!(ports(&service["spec"]["ports"], "port"), [6379]);
}

/// Asks a server that has these arguments.
fn answers(program: &Path, args: &[String], asked: &[(&str, &str)]) {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().expect("it can be done");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .expect("it can be done")
        .local_addr()
        .expect("it can be done")
        .port();
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]).args(args);
    command.env_clear().current_dir(dir.path()).stdout(Stdio::null());
    let _running = Running(command.spawn().expect("it can be done"));
    let began = Instant::now();
    let mut socket = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(socket) => break socket,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
        }
    };
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be done");
    for (command, answer) in asked {
        socket.write_all(command.as_bytes()).expect("it can be done");
        let mut begins = vec![0; answer.len()];
        socket.read_exact(&mut begins).expect("it can be done");
        assert_eq!(text(&begins), *answer, "{command}");
        let mut rest = [0; 4096];
        assert!(socket.read(&mut rest).expect("an answer") > 0, "the rest of the line");
    }
    assert_eq!(
        fs::read_dir(dir.path()).expect("it can be done").count(),
        0,
        "it has written something"
    );
}

// Compose, and what stands in front

#[test]
fn compose_has_two_nodes_that_agree() {
    let compose = yaml("deploy/compose.cluster.yaml");
    let services = &compose["services"];
    let front = fs::read_to_string(repository().join("deploy/haproxy/cluster.cfg")).unwrap();
    let proxy = str_of(&services["haproxy"]["networks"]["inside"]["ipv4_address"]);
    let network = str_of(&compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]);
    let network: ipnet::IpNet = network.parse().unwrap();
    assert!(network.contains(&proxy.parse::<std::net::IpAddr>().unwrap()));
    for name in ["relay-1", "relay-2"] {
        let service = &services[name];
        let settings = config_of(service);
        assert!(settings.cluster.is_on());
        assert_eq!(settings.cluster.node, name);
        assert_eq!(settings.cluster.advertise, format!("{name}:21127"));
        assert_eq!(settings.cluster.listen[0].port(), 21127);
        assert_eq!(settings.proxy.trusted.len(), 1);
        assert_eq!(
            str_of(&service["environment"]["RELAY__PROXY__TRUSTED"]),
            format!("[\"{proxy}\"]")
        );
        let checked = settings.admin.listen[0].port();
        assert!(front.contains(&format!("check port {checked}")));
        let (grace, drain) =
            (str_of(&service["stop_grace_period"]), settings.shutdown.drain_timeout);
        assert!(grace.parse::<jiff::SignedDuration>().unwrap().unsigned_abs() > drain.get());
        for address in &settings.listen {
            assert!(front.contains(&format!("bind :{}\n", address.port())));
        }
        assert!(front.contains(&format!("server {name} {name}:{}\n", settings.listen[0].port())));
        for secret in service["secrets"].as_array().unwrap() {
            assert!(compose["secrets"][str_of(secret)].is_object());
        }
    }
    let Some(check) = requirement::program("check-jsonschema", CI_INSTALL) else { return };
    let schema = ["--builtin-schema", "vendor.compose-spec", "deploy/compose.cluster.yaml"];
    successful(run(Command::new(check).args(schema)));
}

#[test]
fn the_versions_that_are_named_are_those_that_are_validated() {
    let readme = fs::read_to_string(repository().join("deploy/kubernetes/README.md")).unwrap();
    assert!(readme.contains(&format!("Kubernetes {} or later", KUBERNETES_VERSIONS[0])));
}
