//! The three commands of the README, as they stand there, in a network of their own: the daemon in one namespace, the client
//! in another. The name of the README resolves there as it would by DNS.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid},
};

use crate::harness::{
    daemon::{DAEMON_BOUND, program},
    network::untested,
    scratch::Scratch,
    wait::wait_until,
};

const SERVER: &str = "10.213.77.1";
const CLIENT: &str = "10.213.77.2";
const NAME: &str = "registry.example";

/// Two namespaces, joined by a link. Removed when dropped.
struct Network {
    server: String,
    client: String,
}

fn shell(command: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Network {
    /// `None` where none can be made.
    fn create() -> Option<Self> {
        let id = std::process::id() % 100_000;
        let network = Self { server: format!("m3s{id}"), client: format!("m3c{id}") };
        let Self { server, client } = &network;
        let hosts = |namespace: &str| {
            format!("mkdir -p /etc/netns/{namespace} && echo '{SERVER} {NAME}' > /etc/netns/{namespace}/hosts")
        };
        let steps = [
            format!("ip netns add {server}"),
            format!("ip netns add {client}"),
            format!("ip -n {server} link add to type veth peer name to netns {client}"),
            format!("ip -n {server} addr add {SERVER}/24 dev to"),
            format!("ip -n {client} addr add {CLIENT}/24 dev to"),
            format!("ip -n {server} link set to up && ip -n {server} link set lo up"),
            format!("ip -n {client} link set to up && ip -n {client} link set lo up"),
            hosts(server),
            hosts(client),
        ];
        let made = if geteuid().is_root() {
            steps.iter().try_for_each(|step| shell(step))
        } else {
            Err("only root can".to_owned())
        };
        match made {
            Ok(()) => Some(network),
            Err(why) => {
                untested("the commands are not run from another machine", &why);
                None
            }
        }
    }

    /// A command of a shell in a namespace, in a directory, with `musterd` on its path.
    fn command(namespace: &str, directory: &Path, command: &str) -> Command {
        let program = program();
        let folder = Path::new(program.get_program()).parent().unwrap().to_str().unwrap();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", namespace, "sh", "-c", command]).current_dir(directory).env("PATH", path);
        for (name, value) in program.get_envs().filter(|(_, value)| value.is_none()) {
            assert!(value.is_none());
            shell.env_remove(name);
        }
        shell.stdin(Stdio::null());
        shell
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = shell(&format!("ip netns del {namespace}; rm -rf /etc/netns/{namespace}"));
        }
    }
}

/// A process with all that it has started; ended when dropped.
struct Group(std::process::Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The commands of the block that begins with `security init`.
fn commands() -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let block = text.split("```sh\n").find(|block| block.starts_with("musterd security init")).unwrap();
    block.split("```").next().unwrap().lines().map(|line| line.trim_end_matches(['&', ' ']).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_commands_of_the_readme_lead_to_a_secured_resolve_from_another_network() {
    use std::os::unix::process::CommandExt as _;
    let commands = commands();
    let [init, serve, resolve] = &commands[..] else { panic!("not three commands: {commands:?}") };
    let Some(network) = Network::create() else { return };
    let files = Scratch::in_memory();
    fs::set_permissions(files.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = |namespace: &str, command: &str| {
        let output = Network::command(namespace, files.path(), command).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    assert_eq!(run(&network.server, init).0, Some(0));
    let mut serving = Network::command(&network.server, files.path(), serve);
    serving.env("MUSTERD_DATA_DIR", files.path().join("data"));
    let log = fs::File::create(files.path().join("log")).unwrap();
    let _daemon = Group(serving.process_group(0).stderr(log).stdout(Stdio::null()).spawn().unwrap());
    // There is no instance yet: that is what a caller with the right to know it is told.
    wait_until("the daemon answers", DAEMON_BOUND, async || match run(&network.client, resolve) {
        (Some(4), text) if text.contains("no instance of `web` is on record") => Ok(()),
        other => Err((other, fs::read_to_string(files.path().join("log")))),
    })
    .await;
    let operator = "--addr https://registry.example --ca tls/ca.pem --token-file tls/operator.token";
    let mut actor = Network::command(
        &network.client,
        files.path(),
        &format!("musterd run --logical-id web {operator} -- sleep 600"),
    );
    let _actor = Group(actor.process_group(0).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    wait_until("the instance is resolved", DAEMON_BOUND, async || match run(&network.client, resolve) {
        (Some(0), text) => Ok(text),
        other => Err(other),
    })
    .await;
    let without = resolve.replace("--token-file tls/operator.token", "");
    let (code, text) = run(&network.client, &without);
    assert!(code == Some(6) && text.contains("no credential was given"), "{code:?} {text}");
}
