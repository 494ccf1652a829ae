//! The crowd of a world: actors, writers, routers and watchers, and how they share processes.

use std::time::Duration;

use musterd_client::RouterSettings;

use super::{
    proxy::{Link, Upstream},
    roles::{
        actor::{Actor, Quit, Style},
        plain::Plain,
        router::{self, Router},
        watcher::Watcher,
        writer::Writer,
    },
    world::{Population, World},
};

/// The time that each actor takes to begin, if there are many.
const BEGINNING: Duration = Duration::from_millis(30);
/// When those that fall silent do so.
const QUITS_AFTER: Duration = Duration::from_millis(2_500);
/// How many actors share a process, and so a client and its stream of beats: at least.
const PER_PROCESS: usize = 3;
/// As many processes a small machine can bear, each with a thread, and connections that it makes again when they stall.
const PROCESSES_MAX: usize = 30;
/// One of so many actors has no client.
const PLAIN_OF: usize = 5;

impl World {
    /// Starts all clients.
    pub(crate) async fn populate(&mut self, population: Population) {
        let names: Vec<_> = (0..population.actors.div_ceil(3)).map(|name| format!("organ-{name}")).collect();
        let mut process = self.member(&self.addrs(), 0);
        let per_process = population.actors.div_ceil(PROCESSES_MAX).max(PER_PROCESS);
        for number in 0..population.actors {
            if number.is_multiple_of(per_process) {
                process = self.member(&self.addrs(), number / per_process);
            }
            let quits = number < population.quitters;
            // Many at once would keep a small machine from answering for longer than a TTL.
            let begins_after = BEGINNING * u32::try_from(number.saturating_sub(30)).unwrap();
            let name = names[number % names.len()].clone();
            if number % PLAIN_OF == PLAIN_OF - 1 {
                self.add_plain(number, name, begins_after, quits.then_some(QUITS_AFTER));
            } else {
                self.add_actor(number, name, begins_after, quits, &process).await;
            }
        }
        for _ in 0..population.writers {
            let writer = Writer::new(self.role(&self.quiet.clone()));
            self.crowd.spawn(writer.run(self.epoch));
        }
        for number in 0..population.routers {
            self.add_router(number, names.clone());
        }
        for number in 0..population.watchers {
            let role = self.role(&self.stop.clone());
            let at = number % self.nodes.len();
            let tls = self.nodes[at].tls(role.client.id);
            let watcher = Watcher::new(role, (self.addrs(), tls), at, number % 2 == 1);
            self.crowd.spawn(watcher.run());
        }
    }

    /// One more actor without a client.
    fn add_plain(&mut self, number: usize, name: String, begins_after: Duration, quits_after: Option<Duration>) {
        let role = self.role(&self.stop.clone());
        let at = number % self.nodes.len();
        self.crowd.spawn(Plain { role, name, begins_after, quits_after, at, lives: 0 }.live());
    }

    /// One more actor, in a process of its own if it quits.
    async fn add_actor(
        &mut self,
        number: usize,
        name: String,
        begins_after: Duration,
        quits: bool,
        process: &musterd_client::Client,
    ) {
        let style = if number.is_multiple_of(2) { Style::Rejoins } else { Style::StartsOver };
        let (mut client, mut quit) = (process.clone(), None);
        if quits {
            let links = self.addrs().into_iter().map(|addr| Link::to(Upstream::Tcp(addr)));
            let links = futures_util::future::join_all(links).await;
            let addrs: Vec<_> = links.iter().map(|link| link.addr.clone()).collect();
            client = self.member(&addrs, number);
            quit = Some(Quit { after: QUITS_AFTER, links });
        }
        let role = self.role(&self.stop.clone());
        self.crowd.spawn(Actor { role, client, name, style, begins_after, quit, lives: 0 }.live());
    }

    fn add_router(&mut self, number: usize, names: Vec<String>) {
        let (addrs, role) = (self.addrs(), self.role(&self.stop.clone()));
        let client = self.member(&addrs, number);
        let mut settings = RouterSettings::default();
        settings.max_stale = router::MAX_STALE;
        let cache = musterd_client::Router::with(&client, settings);
        self.crowd.spawn(Router { role, client, cache, addrs, names, seen: 0 }.run());
    }
}
