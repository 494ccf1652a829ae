//! The Kubernetes manifests: each overlay is rendered by kustomize, held against the schemas of Kubernetes, and then
//! against what no schema knows: that labels meet selectors, ports exist, settings are settings of the program, and
//! secrets are there.

use std::{collections::BTreeMap, fs};

use serde_json::{Map, Value};

use super::{
    misunderstood, path, text,
    tools::{content, tool},
};
use crate::harness::scratch::Scratch;

const OVERLAYS: [&str; 2] = ["dev", "production"];

/// Secrets that an operator makes, by overlay, with their keys.
const SECRETS_OF_OPERATORS: &[(&str, &str, &[&str])] =
    &[("production", "musterd-database", &["daemon-url", "migrator-url"])];

/// The text of an overlay as kustomize renders it; `None` if we go without kustomize.
fn rendered(overlay: &str) -> Option<String> {
    let mut kustomize = tool(&["kubectl", "kustomize"])?;
    let is_kubectl = kustomize.get_program().to_string_lossy().ends_with("kubectl");
    let command = if is_kubectl { "kustomize" } else { "build" };
    Some(content(kustomize.arg(command).arg(path("deploy/kubernetes/overlays").join(overlay))))
}

fn parse(rendered: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(rendered).unwrap()
}

fn name(object: &Value) -> String {
    format!("{}/{}", object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"].as_str().unwrap_or("?"))
}

/// The pod of a workload.
fn pod(object: &Value) -> Option<&Value> {
    Some(&object["spec"]["template"]).filter(|template| template.is_object())
}

fn has(labels: &Value, selector: &Map<String, Value>) -> bool {
    selector.iter().all(|(key, value)| labels[key] == *value)
}

/// The selectors of an object that must each find pods.
fn selectors(object: &Value) -> Vec<&Map<String, Value>> {
    let spec = &object["spec"];
    let mut found = vec![&spec["podSelector"]["matchLabels"], &spec["selector"]["matchLabels"]];
    match object["kind"].as_str() {
        Some("Service") => found = vec![&spec["selector"]],
        // That one looks for Services.
        Some("ServiceMonitor") => found.clear(),
        _ => {}
    }
    let spreads = spec["template"]["spec"]["topologySpreadConstraints"].as_array().into_iter().flatten();
    found.extend(spreads.map(|spread| &spread["labelSelector"]["matchLabels"]));
    found.into_iter().filter_map(Value::as_object).collect()
}

fn selector_complaints(objects: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    for object in objects {
        for selector in selectors(object) {
            let finds = |kind: &str| {
                let of_kind = objects.iter().filter(|other| other["kind"] == kind).filter_map(pod);
                of_kind.filter(|pod| has(&pod["metadata"]["labels"], selector)).count()
            };
            if finds("Deployment") + finds("StatefulSet") != 1 || finds("Job") != 0 {
                complaints.push(format!("{}: {selector:?} does not find just the pods of one workload", name(object)));
            }
        }
    }
    complaints
}

/// Names and numbers of the ports of all containers that a Service may lead to.
fn ports(pod: &Value) -> Vec<Value> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports.flat_map(|port| [port["name"].clone(), port["containerPort"].clone()]).collect()
}

fn port_complaints(objects: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    for object in objects {
        if let Some(pod) = pod(object) {
            for container in pod["spec"]["containers"].as_array().unwrap() {
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    let http = &container[probe]["httpGet"];
                    let expected = if probe == "readinessProbe" { "/readyz" } else { "/livez" };
                    if http.is_object() && (!ports(pod).contains(&http["port"]) || http["path"] != expected) {
                        complaints.push(format!("{}: {probe} asks for {http}", name(object)));
                    }
                }
            }
        }
        if object["kind"] != "Service" {
            continue;
        }
        let selector = object["spec"]["selector"].as_object().unwrap();
        let pods = objects.iter().filter_map(pod).filter(|pod| has(&pod["metadata"]["labels"], selector));
        let open: Vec<Value> = pods.flat_map(ports).collect();
        for port in object["spec"]["ports"].as_array().unwrap() {
            if !open.contains(&port["targetPort"]) {
                complaints.push(format!("{}: no pod listens at {}", name(object), port["targetPort"]));
            }
        }
    }
    complaints
}

/// The containers that run musterd, with the workload they belong to.
fn ours(objects: &[Value]) -> Vec<(&Value, &Value)> {
    let workloads = objects.iter().filter(|object| pod(object).is_some());
    let containers = workloads.flat_map(|object| {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
        containers.map(move |container| (object, container))
    });
    containers
        .filter(|(_, container)| container["image"].as_str().is_some_and(|image| image.contains("musterd")))
        .collect()
}

fn setting_complaints(objects: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (object, container) in ours(objects) {
        let arguments: Vec<&str> = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let mut environment = BTreeMap::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = variable["value"].as_str().unwrap_or("postgres://user@host/database");
            environment.insert(variable["name"].as_str().unwrap().to_owned(), value.to_owned());
        }
        if let Some(why) = misunderstood(&arguments, &environment) {
            complaints.push(format!("{}: {why}", name(object)));
        }
        if arguments == ["serve"] && environment.get("MUSTERD_NO_MIGRATE").map(String::as_str) != Some("true") {
            complaints.push(format!("{}: the Job migrates, not the daemon", name(object)));
        }
        let image = container["image"].as_str().unwrap_or_default();
        if image.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest" || tag.is_empty()) {
            complaints.push(format!("{}: {image} is no certain version", name(object)));
        }
    }
    complaints
}

fn secret_complaints(overlay: &str, objects: &[Value]) -> Vec<String> {
    let is_there = |name: &str, key: &str| {
        let made = objects.iter().filter(|object| object["kind"] == "Secret" && object["metadata"]["name"] == name);
        let mut made = made.flat_map(|secret| [&secret["data"], &secret["stringData"]]);
        made.any(|data| !data[key].is_null())
            || SECRETS_OF_OPERATORS
                .iter()
                .any(|(of, secret, keys)| *of == overlay && *secret == name && keys.contains(&key))
    };
    let workloads = objects.iter().filter(|object| pod(object).is_some());
    let references = workloads.flat_map(|object| {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
        let variables = containers.flat_map(|container| container["env"].as_array().into_iter().flatten());
        variables.map(move |variable| (object, &variable["valueFrom"]["secretKeyRef"]))
    });
    references
        .filter_map(|(object, reference)| Some((object, reference["name"].as_str()?, reference["key"].as_str()?)))
        .filter(|(_, name, key)| !is_there(name, key))
        .map(|(object, secret, key)| format!("{}: there is no {key} in a secret {secret}", name(object)))
        .collect()
}

fn security_complaints(objects: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    for object in objects {
        let Some(spec) = pod(object).map(|pod| &pod["spec"]) else { continue };
        let mut require = |holds: bool, what: &str| {
            if !holds {
                complaints.push(format!("{}: {what}", name(object)));
            }
        };
        require(spec["securityContext"]["runAsNonRoot"] == true, "may run as root");
        require(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile");
        require(spec["automountServiceAccountToken"] == false, "is given a token");
        for container in spec["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            let is_ours = ours(objects).iter().any(|(_, ours)| std::ptr::eq(*ours, container));
            require(context["allowPrivilegeEscalation"] == false, "may escalate");
            require(context["capabilities"]["drop"] == serde_json::json!(["ALL"]), "keeps capabilities");
            require(context["readOnlyRootFilesystem"] == true || !is_ours, "may write to its root file system");
            let resources = &container["resources"];
            require(!resources["requests"]["memory"].is_null(), "asks for no memory");
            require(!resources["limits"]["memory"].is_null(), "has no limit of memory");
        }
    }
    complaints
}

/// How a pod is given time to leave, and how many of them may be away at once.
fn leaving_complaints(objects: &[Value]) -> Vec<String> {
    let Some(daemon) = objects.iter().find(|object| name(object) == "Deployment/musterd") else {
        return vec!["there is no Deployment/musterd".to_owned()];
    };
    let spec = &daemon["spec"]["template"]["spec"];
    let before = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
    let needed = before + musterd::lifecycle::WATCHDOG_LIMIT.as_secs() + 1;
    let mut complaints = Vec::new();
    if spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30) < needed {
        complaints.push(format!("a daemon needs {needed} s to leave"));
    }
    let budget = objects.iter().find(|object| object["kind"] == "PodDisruptionBudget");
    if budget.is_none_or(|budget| budget["spec"]["maxUnavailable"] != 1) {
        complaints.push("nothing keeps nodes from being drained of all daemons at once".to_owned());
    }
    complaints
}

fn complaints(overlay: &str, objects: &[Value]) -> Vec<String> {
    [
        selector_complaints(objects),
        port_complaints(objects),
        setting_complaints(objects),
        secret_complaints(overlay, objects),
        security_complaints(objects),
        leaving_complaints(objects),
    ]
    .concat()
}

#[test]
fn every_overlay_renders_and_holds_together() {
    for overlay in OVERLAYS {
        let Some(rendered) = rendered(overlay) else { return };
        let objects = parse(&rendered);
        assert!(objects.len() >= 8, "{overlay}: {:?}", objects.iter().map(name).collect::<Vec<_>>());
        assert_eq!(complaints(overlay, &objects), [""; 0], "{overlay}");
    }
}

#[test]
fn every_overlay_is_what_kubernetes_expects() {
    for overlay in OVERLAYS {
        let Some(rendered) = rendered(overlay) else { return };
        let Some(mut validate) = tool(&["kubernetes-validate"]) else { return };
        let scratch = Scratch::in_memory();
        let file = scratch.path().join("rendered.yaml");
        fs::write(&file, rendered).unwrap();
        content(validate.args(["--strict", "--quiet"]).arg(&file));
    }
}

#[test]
fn inconsistent_manifest_is_reported() {
    let Some(rendered) = rendered("production") else { return };
    let objects = parse(&rendered);
    let broken = |kind: &str, pointer: &str, value: Value| {
        let mut objects = objects.clone();
        let object = objects.iter_mut().find(|object| name(object) == kind).unwrap();
        *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind}{pointer}")) = value;
        complaints("production", &objects)
    };
    let container = "/spec/template/spec/containers/0";
    for (kind, pointer, value) in [
        ("Service/musterd-grpc", "/spec/selector/app.kubernetes.io~1name".to_owned(), "muster".into()),
        ("Service/musterd", "/spec/ports/0/targetPort".to_owned(), "http2".into()),
        ("PodDisruptionBudget/musterd", "/spec/maxUnavailable".to_owned(), 2.into()),
        ("Deployment/musterd", "/spec/template/metadata/labels/app.kubernetes.io~1component".to_owned(), "x".into()),
        ("Deployment/musterd", "/spec/template/spec/terminationGracePeriodSeconds".to_owned(), 10.into()),
        ("Deployment/musterd", format!("{container}/image"), "musterd:latest".into()),
        ("Deployment/musterd", format!("{container}/env/0/name"), "MUSTERD_DATABASE".into()),
        ("Deployment/musterd", format!("{container}/env/0/valueFrom/secretKeyRef/key"), "url".into()),
        ("Deployment/musterd", format!("{container}/readinessProbe/httpGet/port"), "https".into()),
        ("Deployment/musterd", format!("{container}/livenessProbe/httpGet/path"), "/readyz".into()),
        ("Job/musterd-migrate", format!("{container}/args"), serde_json::json!(["migrate"])),
        ("Job/musterd-migrate", format!("{container}/securityContext/readOnlyRootFilesystem"), false.into()),
    ] {
        assert!(!broken(kind, &pointer, value).is_empty(), "{kind}{pointer}");
    }
}

#[test]
fn each_overlay_has_its_size_and_production_is_scraped() {
    for (overlay, replicas) in [("dev", 1), ("production", 3)] {
        let Some(rendered) = rendered(overlay) else { return };
        let objects = parse(&rendered);
        let daemon = objects.iter().find(|object| name(object) == "Deployment/musterd").unwrap();
        assert_eq!(daemon["spec"]["replicas"], replicas, "{overlay}");
        let namespace = daemon["metadata"]["namespace"].as_str().unwrap();
        let lost: Vec<_> = objects
            .iter()
            .filter(|object| object["kind"] != "Namespace" && object["metadata"]["namespace"] != namespace)
            .map(name)
            .collect();
        assert!(lost.is_empty(), "not in {namespace}: {lost:?}");
        let Some(monitor) = objects.iter().find(|object| object["kind"] == "ServiceMonitor") else {
            assert_eq!(overlay, "dev");
            continue;
        };
        let selector = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let port = &monitor["spec"]["endpoints"][0]["port"];
        let scraped = objects.iter().filter(|object| object["kind"] == "Service");
        let scraped = scraped.filter(|service| has(&service["metadata"]["labels"], selector));
        let scraped = scraped.flat_map(|service| service["spec"]["ports"].as_array().unwrap());
        assert_eq!(scraped.filter(|found| found["name"] == *port).count(), 1, "each daemon is found once");
    }
}

#[test]
fn secrets_that_an_operator_makes_are_documented_beside_the_overlay() {
    for (overlay, secret, keys) in SECRETS_OF_OPERATORS {
        let told = text(&format!("deploy/kubernetes/overlays/{overlay}/kustomization.yaml"));
        for word in [&[*secret], *keys].concat() {
            assert!(told.contains(word), "{overlay} does not tell of {word}");
        }
    }
}
