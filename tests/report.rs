//! The report as a reader has it: a page that a browser opens from a disk.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{World, ended, skipped};

/// Width and height of a desk's window and of a phone's.
const WINDOWS: [(u32, u32); 2] = [(1280, 900), (390, 844)];

/// A Chromium of the distribution's, by any of its names.
fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser"];
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let places = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    // A distribution may have a program of that name that only says where to get another one.
    places.into_iter().find(|path| {
        let version = Command::new(path).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("Chrom"))
    })
}

/// Every figure of the page is drawn, every switch of it works, nothing is fetched and nothing goes wrong, at the width of a desk
/// and of a phone. What a reader does is in `browser/check.js`.
#[test]
fn a_browser_opens_the_report_draws_every_figure_and_every_switch_works() {
    let world = World::new();
    world.succeed(&World::suite("out", &["--seeds", "1-2"]));
    world.succeed(&["spectra", "out"]);
    let printed = world.succeed(&["report", "out"]).stdout;
    assert_eq!(printed.trim(), "out/tables/report.html");
    let page = fs::read_to_string(world.path("out/tables/report.html")).expect("a page");
    let figures: Vec<String> = fs::read_dir(world.path("out/tables/figures"))
        .expect("figures")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    for name in [
        "differences",
        "curves",
        "schedule",
        "restarts",
        "costs",
        "memory",
        "spectra",
    ] {
        for kind in ["svg", "png"] {
            let file = format!("{name}-tiny.{kind}");
            assert!(figures.contains(&file), "{file} in {figures:?}");
        }
    }

    let Some(chromium) = chromium() else {
        return skipped("no Chromium: the page was not opened in a browser");
    };
    let watch = concat!(
        "<script>\n",
        include_str!("browser/watch.js"),
        "</script>\n<title>"
    );
    let check = concat!(
        "<script>\n",
        include_str!("browser/check.js"),
        "</script>\n</body>"
    );
    let watched = page.replacen("<title>", watch, 1).replace("</body>", check);
    fs::write(world.path("watched.html"), watched).expect("a page");
    for (width, height) in WINDOWS {
        let found = opened(&chromium, &world, width, height);
        let text = found.to_string();
        let list = |key: &str| {
            found[key]
                .as_array()
                .unwrap_or_else(|| panic!("{key} in {text}"))
        };
        assert!(list("errors").is_empty(), "{text}");
        assert!(list("requests").is_empty(), "{text}");
        assert!(list("problems").is_empty(), "{text}");
        assert_eq!(list("figures").len(), figures.len() / 2, "{text}");
        assert_eq!(found["width"], width, "{text}");
        assert!(
            found["overflow"].as_i64() <= Some(0),
            "the page is wider than its window: {text}"
        );
    }
}

/// What `check.js` found in a window of that size. A window of a headless Chromium cannot be as narrow as a phone, a frame can.
fn opened(chromium: &Path, world: &World, width: u32, height: u32) -> Value {
    let frame = format!(
        "<!DOCTYPE html><meta charset=\"utf-8\"><style>body{{margin:0}}iframe{{border:0}}</style>\
         <iframe id=\"frame\" src=\"watched.html\" width=\"{width}\" height=\"{height}\"></iframe>\
         <script>frame.onload = () => {{ const it = frame.contentDocument.getElementById('found'); \
         document.body.replaceChildren(it ? it : 'nothing was found'); }};</script>"
    );
    fs::write(world.path("frame.html"), frame).expect("a page");
    let child = Command::new(chromium)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--allow-file-access-from-files",
            "--window-size=1600,1200",
            "--virtual-time-budget=20000",
            // Of its own patience, not of the page's: it ends even if the page never does.
            "--timeout=60000",
            "--dump-dom",
        ])
        .arg(format!(
            "--user-data-dir={}",
            world.path("browser").display()
        ))
        .arg(format!("file://{}", world.path("frame.html").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Chromium starts");
    let output = ended(child);
    let page = output.stdout;
    let found = page
        .split_once("<pre id=\"found\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"));
    let Some((found, _)) = found else {
        panic!("{page:.2000}\n{}", output.stderr);
    };
    let text = found
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
