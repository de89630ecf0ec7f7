//! `keygen`: a key pair for the server and its clients.

use std::{io::ErrorKind, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    config::is_label,
    key::{KeyError, KeyPair},
};

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// Where to write id_ed25519 and id_ed25519.pub; an existing pair is left alone.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Print both halves instead of writing them.
    #[arg(long)]
    print: bool,
    /// Print the `[[keys]]` table too that lets clients with this key in, under this label.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<String>,
}

fn label(text: &str) -> Result<String, &'static str> {
    let what = "a label is 1 to 64 letters, digits, dots, dashes and underscores";
    is_label(text).then(|| text.to_owned()).ok_or(what)
}

impl Keygen {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let pair = KeyPair::generate()?;
        if self.print {
            println!("public key (for clients, and hbbs -k): {}", pair.public);
            println!("secret key (keep it to yourself):      {}", pair.secret.as_str());
        } else {
            pair.store(&self.dir).map_err(explained)?;
            println!("wrote id_ed25519 and id_ed25519.pub to {}", self.dir.display());
            println!("public key (for clients): {}", pair.public);
            if self.label.is_none() {
                println!("serve with it: mini_rust_desk_relay_server -k _");
            }
        }
        if let Some(label) = self.label {
            println!("\n[[keys]]\nlabel = \"{label}\"\nkey = \"{}\"", pair.public);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn explained(error: KeyError) -> anyhow::Error {
    let there = matches!(&error, KeyError::Write { source, .. } if source.kind() == ErrorKind::AlreadyExists);
    let error = anyhow::Error::from(error);
    if there {
        error.context(
            "there is a key pair already, and it is left alone: choose another --dir, or --print",
        )
    } else {
        error
    }
}
