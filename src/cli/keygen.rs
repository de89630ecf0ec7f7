//! `keygen`: a key pair for the server and its clients.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::key::KeyPair;

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// Where to write id_ed25519 and id_ed25519.pub; an existing pair is left alone.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Print both halves instead of writing them.
    #[arg(long)]
    print: bool,
}

impl Keygen {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let pair = KeyPair::generate()?;
        if self.print {
            println!("public key (for clients, and hbbs -k): {}", pair.public);
            println!("secret key (keep it to yourself):      {}", pair.secret.as_str());
        } else {
            pair.store(&self.dir)?;
            println!("wrote id_ed25519 and id_ed25519.pub to {}", self.dir.display());
            println!("public key (for clients): {}", pair.public);
            println!("serve with it: mini_rust_desk_relay_server -k _");
        }
        Ok(ExitCode::SUCCESS)
    }
}
