//! How the configuration is read: which source beats which, what is said of a mistake, and that
//! no secret is ever shown. Nothing here touches the environment of the process.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::PathBuf};

use figment::{
    providers::{Format, Toml},
    value::{Dict, Value},
};
use mini_rust_desk_relay_server::config::{
    Config, Duration, KeyConfig, Loaded, LogFormat, Origin, Overrides, Problems, Secret, Size,
    Sources, load, read_keys_file,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// A working directory with what lies in it, an environment and a command line.
struct Scene {
    dir: TempDir,
    sources: Sources,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let working_dir = dir.path().to_owned();
        let overrides = Overrides::default();
        Self { dir, sources: Sources { file: None, working_dir, env: Vec::new(), overrides } }
    }

    fn with(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join(name), text).expect("a file of the scene");
        self
    }

    fn toml(self, text: &str) -> Self {
        self.with("config.toml", text)
    }

    fn dotenv(self, text: &str) -> Self {
        self.with(".env", text)
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn cli(mut self, overrides: Overrides) -> Self {
        self.sources.overrides = overrides;
        self
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load(&self.sources)
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|problems| panic!("no problems, not these:\n{problems}"))
    }

    fn problems(&self) -> String {
        match self.load() {
            Ok(loaded) => panic!("problems, not:\n{}", loaded.describe()),
            Err(problems) => problems.to_string(),
        }
    }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address of a test")).collect()
}

#[track_caller]
fn assert_says(report: &str, parts: &[&str]) {
    for part in parts {
        assert!(report.contains(part), "{part:?} is missing in:\n{report}");
    }
}

// --- defaults and the file that ships ---

#[test]
fn nothing_at_all_gives_the_defaults() {
    let loaded = Scene::new().loaded();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
    assert_eq!(*loaded.origins.of("pairing.timeout"), Origin::Default);
}

#[test]
fn the_file_that_ships_holds_every_key_with_its_default() {
    let text = include_str!("../config.toml");
    let file = Toml::from_str::<Value>(text).expect("valid TOML");
    let defaults = Value::serialize(Config::default()).expect("the defaults");
    assert_eq!(keys(&file), keys(&defaults));
    // Without layers: each key has to be there for this.
    assert_eq!(Toml::from_str::<Config>(text).expect("a whole config"), Config::default());
    assert_eq!(Scene::new().toml(text).loaded().config, Config::default());
}

fn keys(tree: &Value) -> BTreeSet<String> {
    let top: &Dict = tree.as_dict().expect("a table");
    let under = |(name, value): (&String, &Value)| match value.as_dict() {
        Some(_) => keys(value).into_iter().map(|key| format!("{name}.{key}")).collect(),
        None => vec![name.clone()],
    };
    top.iter().flat_map(under).collect()
}

/// A list of tables is empty by default. What its tables may hold stands in a comment, which is
/// valid when it is none any more.
#[test]
fn the_file_that_ships_shows_a_table_of_every_list() {
    let text = include_str!("../config.toml");
    let lines = text.lines().skip_while(|line| *line != "# [[keys]]");
    let table = lines.take_while(|line| line.starts_with("# "));
    let table: String = table.map(|line| format!("{}\n", &line[2..])).collect();
    let shown = Toml::from_str::<Dict>(&table).expect("valid TOML");
    let shown: BTreeSet<_> = keys(&shown["keys"].as_array().unwrap()[0]);
    let known = keys(&Value::serialize(KeyConfig::default()).unwrap());
    let known: BTreeSet<_> = known.into_iter().filter(|name| name != "key").collect();
    assert_eq!(shown, known);
    let loaded = Scene::new().toml(&format!("{text}\n{table}")).loaded();
    assert_eq!(loaded.config.keys.len(), 1);
}

#[test]
fn every_key_that_ships_is_explained() {
    let lines: Vec<_> = include_str!("../config.toml").lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ")) {
        assert!(pair[0].starts_with("# ") || pair[1].starts_with('#'), "{}", pair[1]);
    }
}

#[test]
fn both_readmes_list_every_key() {
    let defaults = keys(&Value::serialize(Config::default()).expect("the defaults"));
    let of_each_key = keys(&Value::serialize(KeyConfig::default()).expect("a table"));
    let mut known: BTreeSet<_> = defaults.into_iter().chain(of_each_key).collect();
    known.remove("keys");
    known.insert("[[keys]]".to_owned());
    for (readme, heading) in [
        (include_str!("../README.md"), "\n## Settings\n"),
        (include_str!("../deploy/docs/README.zh-CN.md"), "\n## 设置\n"),
    ] {
        let (_, settings) = readme.split_once(heading).expect("the section");
        let settings = settings.split("\n## ").next().unwrap();
        let rows = settings.lines().filter_map(|line| line.strip_prefix("| "));
        let listed: BTreeSet<_> = rows
            .flat_map(|row| row.split('|').next().unwrap().split('`').skip(1).step_by(2))
            .map(str::to_owned)
            .collect();
        assert_eq!(listed, known);
    }
}

// --- which source beats which ---

#[test]
fn each_source_beats_the_weaker_ones() {
    let file = Scene::new().toml("key = 'file'");
    assert_eq!(file.loaded().config.key.expose(), "file");
    let hbbr_env = file.env("KEY", "hbbr-env");
    assert_eq!(hbbr_env.loaded().config.key.expose(), "hbbr-env");
    let dotenv = hbbr_env.dotenv("KEY=dotenv");
    assert_eq!(dotenv.loaded().config.key.expose(), "dotenv");
    let env = dotenv.env("RELAY__KEY", "env");
    assert_eq!(env.loaded().config.key.expose(), "env");
    let cli = env.cli(Overrides { key: Some(Secret::new("cli")), ..Overrides::default() });
    assert_eq!(cli.loaded().config.key.expose(), "cli");
}

#[test]
fn the_stronger_source_decides_between_a_key_and_its_file() {
    let scene = Scene::new()
        .toml("key_file = 'from-file'\n[admin]\ntoken = 'a-token-in-the-file'")
        .env("RELAY__ADMIN__TOKEN_FILE", "from-env");
    let flag = Overrides { key: Some(Secret::new("flag")), ..Overrides::default() };
    let loaded = scene.cli(flag).loaded();
    assert_eq!(loaded.config.key.expose(), "flag");
    assert_eq!(loaded.config.key_file, PathBuf::new());
    assert!(loaded.config.admin.token.is_empty());
    assert_eq!(loaded.config.admin.token_file, PathBuf::from("from-env"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_says(
        &loaded.describe(),
        &[
            "key_file = \"\" # from the command line, --key\n",
            "token = \"\" # from the environment, RELAY__ADMIN__TOKEN_FILE\n",
        ],
    );
    // hbbr's own names are weaker than RELAY__ ones, though both are in the environment.
    let scene = Scene::new().dotenv("KEY=hbbr").env("RELAY__KEY_FILE", "ours");
    assert!(scene.loaded().config.key.is_empty());
    // Both in the file, and neither in force.
    let scene = Scene::new().toml("key = 'a'\nkey_file = 'b'").env("RELAY__KEY", "c");
    assert_eq!(scene.loaded().config.key.expose(), "c");
}

#[test]
fn an_empty_value_beats_no_rival() {
    let scene = Scene::new().toml("key_file = 'file'").env("RELAY__KEY", "");
    assert_eq!(scene.loaded().config.key_file, PathBuf::from("file"));
    let scene = Scene::new().toml("key = 'key'").env("RELAY__KEY_FILE", "");
    assert_eq!(scene.loaded().config.key.expose(), "key");
}

#[test]
fn two_of_one_source_are_a_problem() {
    let both = "key and key_file are both set in one place";
    let scene = Scene::new().env("RELAY__KEY", "a").env("RELAY__KEY_FILE", "b");
    let places = "the environment, RELAY__KEY and the environment, RELAY__KEY_FILE";
    assert_says(&scene.problems(), &[both, places]);
    let key_file = Some(PathBuf::from("b"));
    let flags = Overrides { key: Some(Secret::new("a")), key_file, ..Overrides::default() };
    assert_says(&Scene::new().cli(flags).problems(), &[both, "--key and ", "--key-file"]);
}

#[test]
fn sections_are_merged_key_by_key() {
    let scene = Scene::new()
        .toml("[pairing]\ntimeout = '40s'\nmax_waiting = 7\n[log]\nformat = 'json'")
        .env("RELAY__PAIRING__TIMEOUT", "50s");
    let config = scene.loaded().config;
    assert_eq!(config.pairing.timeout, Duration::from_secs(50));
    assert_eq!(config.pairing.max_waiting, 7);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "info");
}

#[test]
fn the_environment_reaches_every_kind_of_key() {
    let config = Scene::new()
        .env("RELAY__LISTEN", "0.0.0.0:1, [::1]:2")
        .env("relay__admin__listen", "[\"[::]:3\"]")
        .env("RELAY__FRONT_DOOR__MAX_CONNECTIONS", " 12 ")
        .env("RELAY__FRONT_DOOR__MAX_FIRST_FRAME", "8 KiB")
        .env("RELAY__KEY_FILE", "/run/secrets/key")
        .env("RELAY__LOG__FORMAT", "json")
        .loaded()
        .config;
    assert_eq!(config.listen, addresses(&["0.0.0.0:1", "[::1]:2"]));
    assert_eq!(config.admin.listen, addresses(&["[::]:3"]));
    assert_eq!(config.front_door.max_connections, 12);
    assert_eq!(config.front_door.max_first_frame, Size::from_kib(8));
    assert_eq!(config.key_file, PathBuf::from("/run/secrets/key"));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_list_may_open_with_the_bracket_of_an_address() {
    let scene = Scene::new().env("RELAY__LISTEN", "[::]:21117,[::]:21119");
    assert_eq!(scene.loaded().config.listen, Config::default().listen);
    let one = Scene::new().env("RELAY__LISTEN", "[::1]:5");
    assert_eq!(one.loaded().config.listen, addresses(&["[::1]:5"]));
}

#[test]
fn a_key_of_digits_stays_as_it_is_written() {
    for (name, digits) in [("RELAY__KEY", "0012345"), ("KEY", "0012345"), ("RELAY__KEY", "1e3")] {
        assert_eq!(Scene::new().env(name, digits).loaded().config.key.expose(), digits);
    }
    assert_eq!(Scene::new().dotenv("KEY=007").loaded().config.key.expose(), "007");
    assert_eq!(Scene::new().env("RELAY__KEY", "true").loaded().config.key.expose(), "true");
}

#[test]
fn an_explicit_file_stands_instead_of_the_usual_one() {
    let mut scene = Scene::new().toml("key = 'usual'").with("other.toml", "log.level = 'debug'");
    scene.sources.file = Some(PathBuf::from("other.toml"));
    let config = scene.loaded().config;
    assert!(config.key.is_empty());
    assert_eq!(config.log.level, "debug");
}

#[test]
fn a_file_further_up_is_not_looked_for() {
    let mut scene = Scene::new().toml("key = 'above'").dotenv("KEY=above");
    scene.sources.working_dir = scene.dir.path().join("below");
    fs::create_dir(&scene.sources.working_dir).unwrap();
    assert_eq!(scene.loaded().config, Config::default());
}

// --- hbbr's own names ---

#[test]
fn hbbrs_port_is_the_one_before() {
    let config = Scene::new().dotenv("PORT=21116").loaded().config;
    assert_eq!(config.listen, Config::default().listen);
    let config = Scene::new().env("PORT", "100").env("BIND", "127.0.0.1").loaded().config;
    assert_eq!(config.listen, addresses(&["127.0.0.1:101", "127.0.0.1:103"]));
}

#[test]
fn hbbrs_bind_alone_moves_the_ports_that_are_configured() {
    let config = Scene::new().dotenv("BIND=10.0.0.1").loaded().config;
    assert_eq!(config.listen, addresses(&["10.0.0.1:21117", "10.0.0.1:21119"]));
    let scene = Scene::new().toml("listen = ['[::]:7', '127.0.0.1:8']").env("BIND", "10.0.0.1");
    assert_eq!(scene.loaded().config.listen, addresses(&["10.0.0.1:7", "10.0.0.1:8"]));
}

#[test]
fn hbbrs_names_ignore_case_and_dashes() {
    let scene = Scene::new().dotenv(" export Key = \"k\" \nlimit-speed=3\n[x]\nport=1\n");
    let loaded = scene.env("Bind", "::1").loaded();
    assert_eq!(loaded.config.key.expose(), "k");
    assert_eq!(loaded.config.listen, addresses(&["[::1]:21117", "[::1]:21119"]));
    let warnings = loaded.warnings.join("\n");
    assert_says(&warnings, &["port in .env is not read"]);
    assert_eq!(loaded.config.bandwidth.throttled.bits_per_second(), 3 << 20);
}

#[test]
fn hbbrs_bandwidths_and_its_downgrade_are_ours() {
    let scene = Scene::new().dotenv("TOTAL_BANDWIDTH=1024\nSINGLE-BANDWIDTH=1.5\nLIMIT_SPEED=0");
    let scene = scene.env("DOWNGRADE_THRESHOLD", "0.5").env("DOWNGRADE_START_CHECK", "1");
    let loaded = scene.loaded();
    let bandwidth = &loaded.config.bandwidth;
    // Its Mb is one of 1024 × 1024 bits, and 0 its way of saying none.
    assert_eq!(bandwidth.total.bits_per_second(), 1 << 30);
    assert_eq!(bandwidth.per_relay.bits_per_second(), 3 << 19);
    assert_eq!(bandwidth.throttled, Config::default().bandwidth.throttled);
    assert_eq!(bandwidth.downgrade_after, Duration::from_secs(1));
    assert!((bandwidth.downgrade_threshold - 0.5).abs() < f64::EPSILON);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    // What nobody set limits nobody.
    let default = Config::default().bandwidth;
    assert!(default.total.is_unlimited() && default.downgrade().is_none());
    let problems = Scene::new().dotenv("\nTOTAL_BANDWIDTH=fast").problems();
    assert_says(&problems, &[".env line 2, TOTAL_BANDWIDTH: bandwidth.total: found \"fast\""]);
}

#[test]
fn an_empty_or_zero_name_of_hbbrs_is_no_value() {
    let scene = Scene::new().toml("key = 'file'").env("KEY", "env").dotenv("KEY=\nPORT=0\nBIND=''");
    let config = scene.loaded().config;
    assert_eq!(config.key.expose(), "env");
    assert_eq!(config.listen, Config::default().listen);
}

/// Of a node that is right but for one line.
#[test]
fn what_is_wrong_with_a_node_is_told_and_no_secret_is_shown() {
    const RIGHT: &str = "[cluster]
        redis = \"redis://:hunter2@redis.example\"
        secret = \"hunter2-hunter2-hunter2-hunter2-hunter2\"
        advertise = \"10.0.0.7:21127\"
        node = \"a\"";
    let shown = Scene::new().toml(RIGHT).loaded().describe();
    assert!(shown.contains("10.0.0.7:21127") && !shown.contains("hunter2"), "{shown}");
    for (right, wrong, said) in [
        ("redis://", "http://", "cluster.redis"),
        ("advertise = \"10.0.0.7:21127\"", "", "by which the other nodes reach this one"),
        ("10.0.0.7:21127", "10.0.0.7", "a host or an address, and a port"),
        ("10.0.0.7:21127", "node a:21127", "a host or an address, and a port"),
        ("10.0.0.7:21127", " node:21127", "a host or an address, and a port"),
        ("10.0.0.7:21127", "nöde:21127", "a host or an address, and a port"),
        ("10.0.0.7:21127", "10.0.0.7:0", "a host or an address, and a port"),
        ("\"a\"", "\"a b\"", "letters, digits and any of - _ . :"),
        ("hunter2-hunter2-hunter2-hunter2-hunter2", "hunter2", "shorter than 32"),
        ("secret = \"hunter2-hunter2-hunter2-hunter2-hunter2\"", "", "what all nodes know"),
    ] {
        let problems = Scene::new().toml(&RIGHT.replace(right, wrong)).problems();
        assert_says(&problems, &[said]);
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}

#[test]
fn wrong_names_of_hbbrs_are_problems_with_their_line() {
    let scene = Scene::new().dotenv("# hbbr\nPORT=tcp://10.0.0.1:80\nBIND=eth0\nnonsense\n");
    let report = scene.problems();
    assert_says(
        &report,
        &[
            ".env line 2, PORT: listen: found \"tcp://10.0.0.1:80\", expected a port number",
            "enableServiceLinks: false",
            ".env line 3, BIND: listen: found \"eth0\", expected an IP address",
            ".env line 4: expected NAME=VALUE",
        ],
    );
    assert_eq!(report.lines().count(), 3);
    for port in ["65533", "-1", "many", "70000"] {
        let report = Scene::new().env("PORT", port).problems();
        assert_says(&report, &["the environment, PORT", port]);
    }
    Scene::new().env("PORT", "65532").loaded();
}

#[test]
fn relay_variables_in_dotenv_do_not_pass_silently() {
    let loaded = Scene::new().dotenv("RELAY__KEY=k").loaded();
    assert!(loaded.config.key.is_empty());
    assert_says(&loaded.warnings.join("\n"), &["RELAY__KEY in .env is not read"]);
}

// --- the command line ---

#[test]
fn the_port_of_the_command_line_is_the_port_itself() {
    let listen = |port, bind: Option<&str>| {
        let bind = bind.map(|ip| ip.parse().expect("an address"));
        let overrides = Overrides { port: Some(port), bind, ..Overrides::default() };
        Scene::new().toml("listen = ['[::1]:5']").cli(overrides).loaded().config.listen
    };
    assert_eq!(listen(300, None), addresses(&["[::]:300", "[::]:302"]));
    assert_eq!(listen(300, Some("127.0.0.1")), addresses(&["127.0.0.1:300", "127.0.0.1:302"]));
    assert_eq!(listen(0, None), addresses(&["[::]:0", "[::]:0"]));
}

#[test]
fn the_bind_of_the_command_line_moves_the_ports_below() {
    let bind = Some("127.0.0.1".parse().unwrap());
    let scene = Scene::new().cli(Overrides { bind, ..Overrides::default() });
    assert_eq!(scene.loaded().config.listen, addresses(&["127.0.0.1:21117", "127.0.0.1:21119"]));
    let scene = scene.env("RELAY__LISTEN", "[::]:9");
    assert_eq!(scene.loaded().config.listen, addresses(&["127.0.0.1:9"]));
}

#[test]
fn hbbrs_bind_goes_with_the_port_of_the_command_line() {
    let overrides = Overrides { port: Some(300), ..Overrides::default() };
    let scene = Scene::new().dotenv("BIND=127.0.0.1").cli(overrides);
    assert_eq!(scene.loaded().config.listen, addresses(&["127.0.0.1:300", "127.0.0.1:302"]));
}

#[test]
fn listeners_that_contradict_each_other_are_a_problem() {
    let listen = Some(addresses(&["[::]:1"]));
    let overrides = Overrides { listen, port: Some(2), ..Overrides::default() };
    assert_says(&Scene::new().cli(overrides).problems(), &["--listen", "leave --port and --bind"]);
    let overrides = Overrides { port: Some(65_534), ..Overrides::default() };
    assert_says(&Scene::new().cli(overrides).problems(), &["--port", "found 65534", "65533"]);
}

#[test]
fn every_flag_arrives() {
    let overrides = Overrides {
        listen: Some(addresses(&["0.0.0.0:4"])),
        key_file: Some(PathBuf::from("k")),
        admin_listen: Some(addresses(&["[::1]:5"])),
        log_level: Some("debug".to_owned()),
        log_format: Some(LogFormat::Json),
        drain_timeout: Some(Duration::from_secs(0)),
        ..Overrides::default()
    };
    let loaded = Scene::new().cli(overrides).loaded();
    let config = &loaded.config;
    assert_eq!(config.listen, addresses(&["0.0.0.0:4"]));
    assert_eq!(config.key_file, PathBuf::from("k"));
    assert_eq!(config.admin.listen, addresses(&["[::1]:5"]));
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
    assert_eq!(config.shutdown.drain_timeout, Duration::from_secs(0));
    assert_eq!(*loaded.origins.of("log.level"), Origin::CommandLine("--log-level"));
}

// --- mistakes ---

#[test]
fn an_unknown_name_comes_with_the_one_that_was_meant() {
    let report = Scene::new()
        .toml(
            "listne = []\ntimeout = '3s'\nwhatever = 1\n[pairing]\ntimout = '3s'\n\
             idle_timeout = '1s'\nlisten = []\n[front-door]\nmax_connections = 1\n[zzz]\na = 1",
        )
        .env("RELAY__PAIRING__TIMEOUTS", "3s")
        .env("RELAY__IDLE_TIMEOUT", "3s")
        .env("RELAY__PAIRING", "3s")
        .env("RELAY__", "3s")
        .problems();
    assert_says(
        &report,
        &[
            "config.toml: listne: unknown key: did you mean listen?",
            "config.toml: timeout: unknown here: it belongs in [pairing]",
            "config.toml: whatever: unknown key: the keys here are key, key_file, keys_file, listen",
            "config.toml: pairing.timout: unknown key: did you mean pairing.timeout?",
            "config.toml: pairing.idle_timeout: unknown here: it belongs in [relay]",
            "config.toml: pairing.listen: unknown here: it belongs in [admin], or in [cluster], or at the top",
            "config.toml: front-door: unknown section: did you mean [front_door]?",
            "config.toml: zzz: unknown section: the sections are [access], [admin], [bandwidth], [cluster]",
            "RELAY__PAIRING__TIMEOUTS: pairing.timeouts: unknown key: did you mean RELAY__PAIRING__TIMEOUT?",
            "RELAY__IDLE_TIMEOUT: idle_timeout: unknown key: did you mean RELAY__RELAY__IDLE_TIMEOUT?",
            "RELAY__PAIRING: pairing: this is a section",
            "the environment, RELAY__: ",
        ],
    );
    assert_eq!(report.lines().count(), 12, "{report}");
}

#[test]
fn a_variable_with_too_few_underscores_does_not_pass_silently() {
    let scene = Scene::new().env("RELAY_KEY", "k").env("RELAY_PAIRING_TIMEOUT", "3s");
    let scene = scene.env("RELAY_PORT_21117_TCP", "tcp://10.0.0.1:21117");
    let warnings = scene.loaded().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_says(&warnings[0], &["RELAY_KEY in the environment is not read", "set by RELAY__KEY"]);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let report = Scene::new()
        .toml(
            "key = 12345\nlisten = ['localhost:1']\n[pairing]\ntimeout = 30\nmax_waiting = -1\n\
             [log]\nformat = 'xml'\nlevel = 5\n[relay]\nkeepalive = 2024-01-01\n[bandwidth]\ntotal = '100'",
        )
        .env("RELAY__FRONT_DOOR__MAX_CONNECTIONS", "many")
        .env("RELAY__SHUTDOWN__DRAIN_TIMEOUT", "soon")
        .env("RELAY__RELAY__MAX_MESSAGE_SIZE", "huge")
        .problems();
    assert_says(
        &report,
        &[
            "config.toml: key: found a number, expected text in quotes",
            "listen: found \"localhost:1\", expected an IP address with its port in quotes",
            "pairing.timeout: found the number 30, expected a duration in quotes such as \"30s\"",
            "pairing.max_waiting: found the number -1, expected a whole number, 0 or more",
            "log.format: found \"xml\", expected \"pretty\" or \"json\"",
            "bandwidth.total: found \"100\", expected a rate in quotes such as \"100Mbit/s\"",
            "log.level: found the number 5, expected text in quotes",
            "relay.keepalive: found a table or a date, expected a duration",
            "RELAY__FRONT_DOOR__MAX_CONNECTIONS: front_door.max_connections: found \"many\", expected a whole number",
            "RELAY__SHUTDOWN__DRAIN_TIMEOUT: shutdown.drain_timeout: found \"soon\", expected a duration",
            "relay.max_message_size: found \"huge\", expected a size such as \"4KiB\"",
        ],
    );
    assert_eq!(report.lines().count(), 11, "{report}");
}

#[test]
fn a_section_and_a_key_are_not_taken_for_each_other() {
    let report = Scene::new().toml("pairing = 5\n[log.level]\na = 1\n[[relay]]\n").problems();
    assert_says(
        &report,
        &["pairing: this is a section", "log.level: found a table", "relay: this is a section"],
    );
    let report = Scene::new().toml("'pairing.timeout' = '3s'").problems();
    assert_says(&report, &["unknown key: did you mean pairing.timeout?"]);
}

#[test]
fn a_slip_in_the_syntax_is_named_by_line_and_column() {
    let report = Scene::new().toml("key = 'x'\n[pairing]\ntimeout = 30s\n").problems();
    assert_says(&report, &["config.toml: no valid TOML, line 3, column 13: expected newline"]);
    assert_eq!(report.lines().count(), 1, "{report}");
}

#[test]
fn a_file_that_was_asked_for_must_be_readable() {
    let mut scene = Scene::new();
    scene.sources.file = Some(PathBuf::from("/nowhere/relay.toml"));
    assert_says(&scene.problems(), &["/nowhere/relay.toml: ", "cannot be read", "No such file"]);
    scene.sources.file = Some(scene.dir.path().to_owned());
    assert_says(&scene.problems(), &["it is a folder"]);
}

#[test]
fn a_folder_where_a_file_should_be_is_a_problem() {
    for name in ["config.toml", ".env"] {
        let scene = Scene::new();
        fs::create_dir(scene.dir.path().join(name)).unwrap();
        assert_says(&scene.problems(), &[name, "it is a folder"]);
    }
}

#[test]
fn values_that_no_relay_can_run_with_are_problems() {
    let cases = [
        ("listen = []", "listen: empty"),
        ("listen = ['[::]:1', '[::]:1']", "[::]:1 is there twice"),
        ("listen = ['[::]:1', '0.0.0.0:1']", "[::]:1 takes the port of 0.0.0.0:1"),
        ("listen = ['[::]:1']\nadmin.listen = ['127.0.0.1:1']", "which is in listen"),
        ("key = 'a'\nkey_file = 'b'", "key and key_file are both set"),
        ("[admin]\ntoken = '0123456789abcdef'\ntoken_file = 'b'", "token_file are both set"),
        ("[bandwidth]\ndowngrade_threshold = 1.5", "found 1.5, expected 0.01 to 1"),
        ("[bandwidth]\ntotal = '7999bit/s'", "found 7999bit/s, expected 8kbit/s or more"),
        ("[admin]\ntoken = '0123456789abcde'", "shorter than 16 characters"),
        ("[front_door]\nfirst_frame_timeout = '0s'", "found 0s, expected 1ms to 8760h"),
        ("[front_door]\nmax_first_frame = '127B'", "expected 128B to 64KiB"),
        ("[front_door]\nmax_first_frame = '65KiB'", "expected 128B to 64KiB"),
        ("[front_door]\nmax_connections = 0", "expected 1 or more"),
        (
            "[tls]\ncert = 'c'\nkey = 'k'\nacme.domains = ['relay.example']",
            "a certificate in tls.cert and one by ACME",
        ),
        ("[tls.acme]\ndomains = ['*.example']", "\"*.example\" is no name that can be proved"),
        ("[tls.acme]\ndomains = ['192.0.2.1']", "\"192.0.2.1\" is no name that can be proved"),
        ("[tls.acme]\nemail = 'admin'", "expected an address such as"),
        ("[tls.acme]\ncache_dir = ''", "every start would order a certificate"),
        ("[tls.acme]\ndirectory = 'http://ca.example'", "that begins with \"https://\""),
        ("[proxy]\ntrusted = ['0.0.0.0/0']", "0.0.0.0/0 lets every client name any address"),
        ("[proxy]\ntrusted = ['proxy.example']", "expected a network or an address in quotes"),
        ("[proxy]\nprotocol = 'on'", "expected \"off\" or \"optional\" or \"required\""),
        ("[proxy]\nheaders = ['x-client']", "\"forwarded\" or \"x-forwarded-for\""),
        ("[pairing]\ntimeout = '0s'", "pairing.timeout: found 0s"),
        ("[pairing]\nmax_waiting = 0", "expected 1 or more"),
        ("[relay]\nidle_timeout = '0s'", "relay.idle_timeout"),
        ("[relay]\nport_forward_idle_timeout = '0s'", "relay.port_forward_idle_timeout"),
        ("[relay]\nwrite_timeout = '99999h'", "relay.write_timeout"),
        ("[relay]\nkeepalive = '999ms'", "relay.keepalive"),
        ("[relay]\nmax_message_size = '1GiB'", "expected 64KiB to 1073741823B"),
        ("[relay]\nmax_message_size = '63KiB'", "relay.max_message_size"),
        ("[log]\nlevel = 'inof'", "found \"inof\", expected error, warn"),
        ("[log]\nlevel = ''", "log.level"),
        ("[log]\nlevel = 'info,hyper=loud'", "log.level"),
    ];
    for (toml, said) in cases {
        let report = Scene::new().toml(toml).problems();
        assert_says(&report, &["config.toml", said]);
        assert_eq!(report.lines().count(), 1, "{report}");
    }
}

#[test]
fn values_at_the_edge_are_fine() {
    for toml in [
        "listen = ['127.0.0.1:1', '127.0.0.2:1', '0.0.0.0:0', '0.0.0.0:0']",
        "listen = ['[::]:0']\nadmin.listen = ['[::]:0']",
        "listen = ['0.0.0.0:1', '[::1]:1']",
        "[front_door]\nmax_first_frame = 128",
        "[proxy]\ntrusted = ['::ffff:10.0.0.0/104', '10.1.2.3', '2001:db8::/32']",
        "[relay]\nmax_message_size = '1073741823B'",
        "[admin]\ntoken = '0123456789abcdef'",
        "[shutdown]\ndrain_timeout = '0s'",
        "[log]\nlevel = 'warn,mini_rust_desk_relay_server=debug,[span]=trace'",
        "[log]\nlevel = 'OFF'",
    ] {
        Scene::new().toml(toml).loaded();
    }
}

#[test]
fn a_rule_does_not_judge_the_default_of_what_could_not_be_read() {
    let scene = Scene::new().toml("listen = ['x']\nadmin.listen = ['127.0.0.1:21117']");
    assert_eq!(scene.problems().lines().count(), 1);
}

#[test]
fn an_empty_variable_that_opens_the_relay_is_warned_of() {
    let loaded = Scene::new().toml("key = 'k'").env("RELAY__KEY", "").loaded();
    assert!(loaded.config.key.is_empty());
    assert_says(&loaded.warnings.join("\n"), &["open to anyone", "RELAY__KEY", "config.toml"]);
}

// --- lists of tables ---

const TWO_KEYS: &str = "[[keys]]\nlabel = 'home'\nkey = 'swordfish'\n\
                        [[keys]]\nlabel = 'office'\nkey_file = 'office.key'\n";

#[test]
fn a_list_of_tables_is_read_from_the_file_and_from_the_environment() {
    let from_file = Scene::new().toml(TWO_KEYS).loaded();
    let list =
        "[{ label = 'home', key = 'swordfish' }, { label = 'office', key_file = 'office.key' }]";
    let from_env = Scene::new().env("RELAY__KEYS", list).loaded();
    assert_eq!(from_file.config, from_env.config);
    let [home, office] = &from_file.config.keys[..] else { panic!("two keys") };
    assert_eq!((&*home.label, home.key.expose()), ("home", "swordfish"));
    assert_eq!((&*office.label, office.key_file.to_str()), ("office", Some("office.key")));
    // The stronger source's list stands alone.
    let scene = Scene::new().toml(TWO_KEYS).env("RELAY__KEYS", "[{ label = 'c', key = 'd' }]");
    assert_eq!(scene.loaded().config.keys.len(), 1);
    assert!(Scene::new().toml(TWO_KEYS).env("RELAY__KEYS", "").loaded().config.keys.is_empty());
}

#[test]
fn every_mistake_in_a_list_of_tables_is_reported_at_once_with_its_table() {
    let report = Scene::new()
        .toml(
            "key = 'k'\n[[keys]]\nlabel = 'home'\nkey = 5318008\n\
             [[keys]]\nlabel = 'office'\nkey = 'a'\nkey_flie = 'b'\ntimeout = '3s'\nzzz = 1\n\
             [[keys]]\nlabel = 7\n[[keys]]\nlabel = 'two words'\nkey = '-'\nkey_file = 'x'\n\
             [[keys]]\nlabel = 'home'\nkey = 'c'\n[[keys]]\nlabel = 'default'\nkey = 'd'",
        )
        .problems();
    let expected = [
        "config.toml: keys[1].key: found a number, expected text in quotes (the 1st of [[keys]], \"home\")",
        "config.toml: keys[2].key_flie: unknown key: did you mean key_file? (the 2nd of [[keys]], \"office\")",
        "config.toml: keys[2].timeout: unknown here: it belongs in [pairing] (the 2nd",
        "config.toml: keys[2].zzz: unknown key: the keys of each are ",
        "config.toml: keys[3].label: found the number 7, expected text in quotes (the 3rd of [[keys]])",
        "config.toml: keys[3].key: found neither key nor key_file, expected one (the 3rd",
        "config.toml: keys[4].label: found another text, expected 1 to 64 letters",
        "config.toml: keys[4].key: key and key_file are both set: leave one out (the 4th",
        "config.toml: keys[4].key: \"-\" and \"_\" stand for id_ed25519 at the top only",
        "config.toml: keys[5].label: keys[1].label is the same: each key needs a label of its own (the 5th",
        "config.toml: keys[6].label: the key at the top has this label: choose another one (the 6th",
    ];
    assert_says(&report, &expected);
    assert_eq!(report.lines().count(), expected.len(), "{report}");
    assert!(!report.contains("5318008"), "{report}");
}

#[test]
fn what_a_key_grants_is_read_and_judged_like_any_setting() {
    let terms =
        "expires = 2027-01-31\nbandwidth = '2Gbit/s'\nmax_relays = 5\nmonthly_traffic = '1TiB'";
    let loaded = Scene::new().toml(&format!("[[keys]]\nlabel = 'a'\nkey = 'b'\n{terms}")).loaded();
    let key = &loaded.config.keys[0];
    assert_eq!(key.expires.unwrap().to_string(), "2027-02-01T00:00:00Z");
    assert_eq!((key.bandwidth.to_string().as_str(), key.max_relays), ("2Gbit/s", Some(5)));
    assert_eq!(key.monthly_traffic, Some(Size::from_mib(1 << 20)));
    assert_says(&loaded.describe(), &["expires = \"2027-02-01T00:00:00Z\"\n", "max_relays = 5\n"]);
    let wrong =
        "expires = '2027-01-31T18:00:00'\nbandwidth = 5\nmax_relays = 0\nmonthly_traffic = '0B'";
    let report =
        Scene::new().toml(&format!("[[keys]]\nlabel = 'a'\nkey = 'b'\n{wrong}")).problems();
    let expected = [
        "keys[1].expires: found \"2027-01-31T18:00:00\", expected a date such as \"2027-01-31\", or",
        "keys[1].bandwidth: found the number 5, expected a rate in quotes",
        "keys[1].max_relays: found 0, expected 1 or more (to let nobody in with it, take the key out) (the 1st",
        "keys[1].monthly_traffic: found 0, expected 1 or more",
    ];
    assert_says(&report, &expected);
    assert_eq!(report.lines().count(), expected.len(), "{report}");
}

/// The file that `keys_file` names is judged as strictly, and together with the configuration.
#[test]
fn a_file_of_keys_is_read_like_the_configuration() {
    let read = |config: &str, file: &str| {
        let scene = Scene::new().toml(&format!("keys_file = 'keys.toml'\n{config}"));
        let scene = scene.with("keys.toml", file);
        let config = scene.loaded().config;
        read_keys_file(&config, scene.dir.path()).map_err(|problems| problems.to_string())
    };
    assert_eq!(read("", TWO_KEYS).unwrap(), Scene::new().toml(TWO_KEYS).loaded().config.keys);
    assert!(read("", "").unwrap().is_empty());
    let problems = read(
        "key = 'k'\n[[keys]]\nlabel = 'home'\nkey = 'z'",
        &format!("{TWO_KEYS}expires = 'soon'\n[[keys]]\nlabel = 'default'\nkey = 5318008\n[log]\n"),
    );
    let report = problems.unwrap_err();
    let expected = [
        "keys.toml: log: this file holds [[keys]] with their keys below them, and nothing else",
        "keys.toml: keys[2].expires: found \"soon\", expected a date",
        "keys.toml: keys[3].key: found a number, expected text in quotes (the 3rd of [[keys]], \"default\")",
        "keys.toml: keys[3].label: the key at the top has this label",
        "keys.toml: keys[1].label: a key of the configuration has this label: choose another (the 1st",
    ];
    assert_says(&report, &expected);
    assert_eq!(report.lines().count(), expected.len(), "{report}");
    assert!(!report.contains("5318008"), "{report}");
    for broken in ["keys = 5318008", "[[keys]]\nkey = 5318008x", "key = '5318008'"] {
        let report = read("", broken).unwrap_err();
        assert_says(&report, &["keys.toml: "]);
        assert!(!report.contains("5318008"), "{report}");
    }
    let scene = Scene::new().toml("keys_file = 'missing.toml'");
    let config = scene.loaded().config;
    let report = read_keys_file(&config, scene.dir.path()).unwrap_err().to_string();
    assert_says(&report, &["missing.toml: the file of keys cannot be read: No such file"]);
}

#[test]
fn what_is_no_list_of_tables_is_said_to_be_none() {
    for (toml, said) in [
        ("keys = 'swordfish'", "keys: this is a list of tables: write [[keys]]"),
        ("[keys]\nlabel = 'a'", "keys: this is a list of tables: write [[keys]]"),
        ("keys = ['swordfish']", "keys[1]: expected a table: write [[keys]]"),
        ("[[key]]\nlabel = 'a'", "key: found a list, expected text in quotes"),
    ] {
        let report = Scene::new().toml(toml).problems();
        assert_says(&report, &[said]);
        assert_eq!(report.lines().count(), 1, "{report}");
    }
    for value in ["swordfish", "[{ label = 'a', key = 'swordfish' ]", "{ key = 'swordfish' }"] {
        let report = Scene::new().env("RELAY__KEYS", value).problems();
        assert_says(&report, &["RELAY__KEYS: keys: expected a TOML list such as [{ label"]);
        assert!(!report.contains("swordfish"), "{report}");
    }
    let report = Scene::new().env("RELAY__KEYS__LABEL", "a").problems();
    assert_says(
        &report,
        &["keys.label: this is a list of tables: set RELAY__KEYS, to a TOML list"],
    );
}

#[test]
fn a_key_in_the_line_of_a_label_is_not_shown() {
    let toml = "[[keys]]\nlabel = 'OeVuKk5nlHiXp+APNn0Y3pC1Iwpwn44JGqrQCsWqmBw='\nkey = 'home'";
    let report = Scene::new().toml(toml).problems();
    assert!(!report.contains("OeVu"), "{report}");
}

#[test]
fn a_list_of_tables_is_described_last_without_its_secrets() {
    let loaded = Scene::new().toml(TWO_KEYS).loaded();
    let text = loaded.describe();
    assert!(!text.contains("swordfish") && !format!("{loaded:?}").contains("swordfish"), "{text}");
    assert_says(
        &text,
        &["\n[[keys]] # from config.toml\n", "key = \"***\"\nlabel = \"home\"\n", "office.key\"\n"],
    );
    let mut again = Scene::new().toml(&text).loaded().config;
    again.keys[0].key = Secret::new("swordfish");
    assert_eq!(again, loaded.config);
}

// --- secrets ---

#[test]
fn no_secret_is_shown_where_all_is_well() {
    let scene = Scene::new()
        .toml("[admin]\ntoken = 'swordfish-swordfish'")
        .env("RELAY__KEY", "swordfish")
        .cli(Overrides { key: Some(Secret::new("swordfish-cli")), ..Overrides::default() });
    let loaded = scene.loaded();
    for text in [loaded.describe(), format!("{loaded:?}"), format!("{:?}", scene.sources)] {
        assert!(!text.contains("swordfish"), "{text}");
    }
    assert_says(&loaded.describe(), &["key = \"***\" # from the command line, --key"]);
}

#[test]
fn no_secret_is_shown_where_something_is_wrong() {
    for toml in [
        "key = 5318008",
        "key = [5318008]",
        "key = { a = 5318008 }",
        "key = 5318008.5",
        "admin.token = 5318008",
        "admin.token = '5318008'",
        "keys = '5318008'",
        "keys = [5318008]",
        "[[keys]]\nkey = 5318008",
        "[[keys]]\nlabel = 'a'\nkey = ['5318008']",
        "[[keys]]\nlabel = 'a'\nkey = '5318008'\nkey_file = 'b'",
        "key = '5318008",
        "key = \"5318008\\q\"",
        "key = a5318008",
        "key = 5318008x",
        "key = 05318008",
        "key '5318008'",
        "key = '5318008' '",
        "key = 'a'\nkey = '5318008'",
        "key = '5318008'\nkey_file = 'b'",
        "admin.token = '5318008'\nadmin.token_file = 'b'",
    ] {
        let scene = Scene::new().toml(toml).dotenv("KEY 5318008\nKEY 5318008=\n5318008");
        let problems = scene.load().expect_err(toml);
        for text in [problems.to_string(), format!("{problems:?}")] {
            assert!(!text.contains("5318008"), "{toml}: {text}");
        }
    }
    let scene = Scene::new().env("RELAY__KYE", "5318008").env("RELAY__ADMIN__TOKEN", "5318008");
    assert!(!scene.problems().contains("5318008"));
}

proptest! {
    #[test]
    fn no_slip_of_the_finger_shows_a_secret(at in 0..40_usize, slip in "[\\[\\]{}=\"'\\\\.,#a\n ]{1,3}") {
        let mut text = "key = 'swordfish'\nadmin.token = \"swordfish-swordfish\"\n".to_owned();
        // Not inside the secret: its halves would not be found, and prove nothing.
        prop_assume!(!text[..at].ends_with(|c: char| "swordfish".contains(c)));
        text.insert_str(at, &slip);
        if let Err(problems) = Scene::new().toml(&text).load() {
            prop_assert!(!problems.to_string().contains("swordfish"), "{text}\n{problems}");
        }
    }

    #[test]
    fn no_text_makes_the_loader_panic(toml in "\\PC{0,60}", dotenv in "\\PC{0,60}", value in "\\PC{0,20}") {
        let scene = Scene::new().toml(&toml).dotenv(&dotenv);
        let names = ["PORT", "BIND", "RELAY__LISTEN", "RELAY__LOG__LEVEL", "RELAY__PAIRING__TIMEOUT"];
        let _ = names.into_iter().fold(scene, |scene, name| scene.env(name, &value)).load();
    }
}

// --- what is in force ---

#[test]
fn what_is_in_force_is_described_with_its_origin() {
    let scene = Scene::new()
        .toml("listen = ['0.0.0.0:5']\n[log]\nlevel = 'info,a[{b=\"c\\\\\"}]=warn'")
        .dotenv("\nKEY=k")
        .env("RELAY__PAIRING__TIMEOUT", "1h 30m");
    let loaded = scene.loaded();
    let text = loaded.describe();
    assert_says(
        &text,
        &[
            "listen = [\"0.0.0.0:5\"] # from config.toml\n",
            "key = \"***\" # from .env line 2, KEY\n",
            "\n[pairing]\nmax_waiting = 10000 # default\n",
            "from the environment, RELAY__PAIRING__TIMEOUT\n",
        ],
    );
    let mut again = Scene::new().toml(&text).loaded().config;
    again.key = Secret::new("k");
    assert_eq!(again, loaded.config);
}
