//! The policy against a second, naive evaluator, and the errors of its file.

use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = r#"
[[rule]]                       # an actor registers under the name of its service account
who = ["cert/organs.{sa}", "spiffe://prod/ns/organs/sa/{sa}"]
may = ["register", "resolve"]
on  = ["{sa}", "{sa}_*"]

[[rule]]
who = ["token/router"]
may = ["resolve", "read"]
on  = ["*"]

[[rule]]
who = ["token/alice"]
may = ["register", "beat", "resolve", "read", "operate", "cluster", "metrics"]
on  = ["*"]

[[rule]]
who = ["anonymous"]
may = ["metrics"]
"#;

fn identity(text: &str) -> Identity {
    Identity::parse(text).unwrap()
}

fn may(policy: &Policy, who: &str, verb: Verb, name: &str) -> bool {
    let (identity, grants) = (identity(who), policy.grants(&identity(who)));
    let granted = grants.names(verb).contains(name);
    assert_eq!(policy.allows(&identity, verb, name).is_some(), granted, "{who} {verb} {name}");
    granted
}

#[test]
fn example_policy_grants_its_rights_and_no_others() {
    let policy = Policy::parse(EXAMPLE).unwrap();
    for (who, verb, name, expected) in [
        ("spiffe://prod/ns/organs/sa/a", Verb::Register, "a", true),
        ("spiffe://prod/ns/organs/sa/a", Verb::Register, "a_1", true),
        ("cert/organs.a-b", Verb::Register, "a-b_1", true),
        // Account a must not take the names of account a-b.
        ("spiffe://prod/ns/organs/sa/a", Verb::Register, "a-b", false),
        ("spiffe://prod/ns/organs/sa/a", Verb::Register, "ab", false),
        ("spiffe://prod/ns/organs/sa/a", Verb::Read, "a", false),
        ("spiffe://prod/ns/other/sa/a", Verb::Register, "a", false),
        ("spiffe://prod/ns/organs/sa/a/b", Verb::Register, "a", false),
        ("spiffe://prod/ns/organs/sa/A", Verb::Register, "A", false),
        ("cert/organs.-a", Verb::Register, "-a", false),
        ("token/router", Verb::Read, "anything", true),
        ("token/router", Verb::Register, "anything", false),
        ("token/router", Verb::Metrics, "", true),
        ("token/alice", Verb::Cluster, "x", true),
        ("anonymous", Verb::Metrics, "", true),
        ("anonymous", Verb::Read, "a", false),
    ] {
        assert_eq!(may(&policy, who, verb, name), expected, "{who} {verb} {name}");
    }
    assert!(policy.names_anonymous());
    assert_eq!(policy.allows(&identity("token/router"), Verb::Read, "x").map(|at| at.line), Some(7));
}

#[test]
fn unreadable_policy_is_refused_with_line_and_column() {
    let rule = |who: &str, may: &str, on: &str| format!("[[rule]]\nwho = [{who}]\nmay = [{may}]\non = [{on}]\n");
    let good = || rule(r#""token/a""#, r#""read""#, r#""x""#);
    for (text, expected) in [
        (String::new(), "1:1: there is no rule"),
        ("[[rule]\n".to_owned(), "1:"),
        ("rule = 1\n".to_owned(), "1:1: rule is not a table"),
        ("[[role]]\nname = 'x'\n".to_owned(), "1:3: unknown key \"role\""),
        ("issuer = 1\n".to_owned(), "1:1: issuer is not a table"),
        (format!("{}limit = {{}}\n", good()), "5:1: unknown key \"limit\""),
        (format!("{}limits = {{}}\n", good()), "5:10: limits is empty"),
        (format!("{}limits = 5\n", good()), "5:10: limits is not a table"),
        (format!("{}limits = {{ record = 5 }}\n", good()), "5:21: unknown limit \"record\""),
        (format!("{}limits = {{ records = 0 }}\n", good()), "5:22: records is no count"),
        (format!("{}limits = {{ records = \"5\" }}\n", good()), "5:22: records is no count"),
        (format!("{}limits = {{ registrations = 20 }}\n", good()), "5:28: registrations is no rate"),
        (format!("{}limits = {{ registrations = \"20/m\" }}\n", good()), "5:28: registrations is no rate"),
        (
            format!("{}addresses = [\"10.0.0.1/8\"]\n", good().replace("read", "register")),
            "5:14: \"10.0.0.1/8\" has bits behind its first 8",
        ),
        (format!("{}addresses = [\"host\"]\n", good().replace("read", "register")), "5:14: \"host\" is no address"),
        (format!("{}addresses = []\n", good().replace("read", "register")), "5:1: addresses is empty"),
        (
            "[[rule]]\nwho = [\"token/a\"]\nmay = [\"read\"]\non = [\"a\"]\naddresses = [\"peer\"]\n".to_owned(),
            "5:14: the rule does not grant register",
        ),
        (format!("transport = \"cert/mesh\"\n{}", good()), "1:13: transport is not an array"),
        (format!("transport = [\"token/a\"]\n{}", good()), "1:14: \"token/a\" is of no certificate"),
        (
            "transport = [\"cert/mesh\"]\n[[rule]]\nwho = [\"cert/mesh\"]\nmay = [\"metrics\"]\n".to_owned(),
            "3:8: \"cert/mesh\" is among transport",
        ),
        ("[[rule]]\nmay = ['read']\non = ['*']\n".to_owned(), "1:1: the rule has no who"),
        ("[[rule]]\nwho = ['token/a']\non = ['*']\n".to_owned(), "1:1: the rule has no may"),
        ("[[rule]]\nwho = ['token/a']\nmay = ['read']\n".to_owned(), "1:1: the rule has no on"),
        ("[[rule]]\nwho = 'token/a'\n".to_owned(), "2:7: who is not an array"),
        ("[[rule]]\nwho = [1]\n".to_owned(), "2:8: who has a value"),
        (rule("", "'read'", "'*'"), "2:1: who is empty"),
        (rule("'token/a'", "'read'", ""), "4:1: on is empty"),
        (rule("'token/a', 'token/a'", "'read'", "'*'"), "2:19: \"token/a\" is there twice"),
        (rule("'token/a'", "'write'", "'*'"), "3:8: \"write\" is no verb"),
        (rule("'alice'", "'read'", "'*'"), "2:8: \"alice\" is no identity"),
        (rule("'token/*'", "'read'", "'*'"), "2:8: \"token/*\" has a *"),
        (rule("'local'", "'read'", "'*'"), "2:8: \"local\" may do everything without a rule"),
        (rule("'token/{a}{b}'", "'read'", "'*'"), "2:8: in \"token/{a}{b}\" the text after {a}"),
        (rule("'cert/{a}-x'", "'read'", "'*'"), "2:8: in \"cert/{a}-x\" the text after {a}"),
        (rule("'cert/{a}.{a}'", "'read'", "'*'"), "2:8: \"cert/{a}.{a}\" has {a} twice"),
        (rule("'cert/{a'", "'read'", "'*'"), "2:8: \"cert/{a\" has a brace"),
        (rule("'cert/{A}'", "'read'", "'*'"), "2:8: \"cert/{A}\" has the placeholder"),
        (rule("'cert/{a}'", "'read'", "'{a}-*'"), "4:7: in \"{a}-\" the text after {a}"),
        (rule("'cert/{a}'", "'read'", "'{a}*'"), "4:7: \"{a}*\" would let the account a"),
        (rule("'cert/{a}', 'token/b'", "'read'", "'{a}'"), "4:7: \"token/b\" in who does not say what {a} is"),
        (rule("'token/a'", "'read'", "'a*b'"), "4:7: \"a*b\" has a * that is not at its end"),
        (rule("'token/a'", "'read'", "''"), "4:7: a logical id is empty"),
        (rule("'token/a'", "'read'", "'a', 'a*'"), "4:7: \"a\" is among \"a*\" already"),
        (rule("'token/a'", "'read'", "'*', 'a'"), "4:12: \"a\" is among \"*\" already"),
        (rule("'token/a'", "'read', 'cluster'", "'a*'"), "3:16: cluster concerns every instance"),
        (rule("'token/a'", "'metrics'", "'*'"), "4:7: metrics is about no logical id"),
        (format!("{}{}", good(), good()), "5:1: the rule at line 1 grants all"),
        (format!("{}{}", good(), rule("'token/a'", "'read', 'resolve'", "'*'")), "1:1: the rule at line 5 grants all"),
        (format!("{}{}", rule("'anonymous'", "'read'", "'*'"), good()), "5:1: the rule at line 1 grants all"),
        (format!("{}{}", rule("'token/{x}'", "'read'", "'*'"), good()), "5:1: the rule at line 1 grants all"),
    ] {
        let error = Policy::parse(&text).expect_err(&text).to_string();
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
    let apart = format!("{}{}", rule("'cert/{x}'", "'read'", "'{x}'"), rule("'cert/a'", "'read'", "'b'"));
    assert!(Policy::parse(&apart).is_ok(), "rules that grant different things");
}

/// A rule as plain texts.
type Written = (Vec<String>, Vec<Verb>, Vec<String>);

/// Whether a text is of a pattern, character by character; what `{x}` stands for is tried in every length.
fn fits(pattern: &str, text: &str, slot: &mut Option<String>) -> bool {
    if let Some(rest) = pattern.strip_prefix("{x}") {
        return (1..=text.len()).any(|end| {
            let Some(label) = text.get(..end) else { return false };
            let is_label = label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-');
            let mut found = Some(label.to_owned());
            let fitting = is_label && fits(rest, &text[end..], &mut found);
            if fitting {
                *slot = found;
            }
            fitting
        });
    }
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => fits(&pattern[a.len_utf8()..], &text[b.len_utf8()..], slot),
        _ => false,
    }
}

fn naive(rules: &[Written], who: &str, verb: Verb, name: &str) -> bool {
    rules.iter().any(|(identities, verbs, on)| {
        verbs.contains(&verb)
            && identities.iter().any(|identity| {
                let mut slot = None;
                let is_meant = identity == "anonymous" || fits(identity, who, &mut slot);
                let named = |on: &String| {
                    let on = on.replace("{x}", slot.as_deref().unwrap_or("{x}"));
                    on.strip_suffix('*').map_or(on == name, |prefix| name.starts_with(prefix))
                };
                is_meant && (verb == Verb::Metrics || on.iter().any(named))
            })
    })
}

fn written() -> impl Strategy<Value = Written> {
    let some = |words: &[&'static str]| {
        let words: Vec<&'static str> = words.to_vec();
        let count = 1..=words.len().min(3);
        prop::sample::subsequence(words, count)
            .prop_map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let verbs = prop::sample::subsequence(Verb::ALL.to_vec(), 1..4);
    let plain = (
        some(&["token/a", "token/a-b", "cert/a", "anonymous", "spiffe://td/a"]),
        verbs.clone(),
        some(&["a", "a-b", "b", "a_*", "b*", "a-b_1"]),
    );
    let slotted =
        (some(&["token/{x}", "cert/{x}.y", "spiffe://td/{x}"]), verbs, some(&["{x}", "{x}_*", "a", "c_{x}.*"]));
    prop_oneof![plain, slotted].prop_map(|(who, may, on)| {
        let on = if may.contains(&Verb::Cluster) { vec!["*".to_owned()] } else { on };
        (who, may, on)
    })
}

fn text(rules: &[Written]) -> String {
    let list = |words: Vec<String>| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let rule = |(who, may, on): &Written| {
        let names = may.iter().any(|verb| verb.has_names());
        let on = if names { format!("on = [{}]\n", list(on.clone())) } else { String::new() };
        let may = may.iter().map(|verb| verb.as_str().to_owned()).collect();
        format!("[[rule]]\nwho = [{}]\nmay = [{}]\n{on}", list(who.clone()), list(may))
    };
    rules.iter().map(rule).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn policy_decides_as_a_naive_evaluator_does(rules in prop::collection::vec(written(), 1..5)) {
        // Rules without an effect of their own are refused, which is another test's business.
        let Ok(policy) = Policy::parse(&text(&rules)) else { return Ok(()) };
        for who in [
            "anonymous", "token/a", "token/a-b", "token/b", "token/a_b", "cert/a", "cert/a.y", "cert/a-b.y", "cert/-.y",
            "spiffe://td/a", "spiffe://td/a-b", "spiffe://td/a/b", "spiffe://other/a",
        ] {
            let grants = policy.grants(&identity(who));
            for verb in Verb::ALL {
                for name in ["a", "b", "a-b", "ab", "a_1", "a-b_1", "b_", "c_a.1", "c_a-b.", "{x}", "A"] {
                    let expected = naive(&rules, who, verb, name);
                    prop_assert_eq!(grants.names(verb).contains(name), expected, "{} {} {}", who, verb, name);
                    prop_assert_eq!(policy.allows(&identity(who), verb, name).is_some(), expected);
                }
            }
        }
    }
}

#[test]
fn rules_with_limits_of_their_own_are_in_force_beside_wider_ones() {
    let policy = Policy::parse(
        r#"
        [[rule]]
        who = ["token/{x}"]
        may = ["register"]
        on = ["*"]
        addresses = ["10.0.0.0/8"]
        limits = { records = 5, registrations = "2/s" }
        [[rule]]
        who = ["token/a"]
        may = ["register"]
        on = ["a_*"]
        addresses = ["peer"]
        limits = { records = 3, watches = 7 }
        [[rule]]
        who = ["anonymous"]
        may = ["read"]
        on = ["*"]
        limits = { records = 1, connections = 2 }
        "#,
    )
    .unwrap();
    let limits = policy.limits(&identity("token/a"));
    assert_eq!((limits.records, limits.registrations, limits.watches, limits.connections), (5, 2, 7, 1_000));
    assert_eq!(policy.limits(&identity("cert/a")), Limits::default(), "a rule for anonymous limits no others");
    assert_eq!(policy.limits(&identity("anonymous")).connections, 2);
    let ip = |text: &str| text.parse().unwrap();
    for (name, address, expected) in [
        ("b", "10.1.1.1", Some(2)),
        ("b", "192.0.2.7", None),
        ("a_1", "192.0.2.7", Some(8)),
        ("a_1", "192.0.2.8", None),
        ("a_1", "127.0.0.1", None),
    ] {
        let peer = Some(ip("192.0.2.7"));
        let rule = policy.allows_address(&identity("token/a"), name, ip(address), peer).map(|at| at.line);
        assert_eq!(rule, expected, "{name} {address}");
        let grants = policy.grants(&identity("token/a"));
        let admitted = grants.admit_address(name, ip(address), peer).is_ok();
        assert_eq!(admitted, expected.is_some(), "{name} {address}");
    }
}
