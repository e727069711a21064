// Before anything of a report runs: whatever goes wrong in it is kept.
window.watched = [];
addEventListener("error", (event) => window.watched.push(String(event.message || "something did not load")), true);
addEventListener("unhandledrejection", (event) => window.watched.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => window.watched.push("blocked: " + event.blockedURI));
for (const kind of ["error", "warn"]) {
  const said = console[kind];
  console[kind] = (...words) => {
    window.watched.push(kind + ": " + words.join(" "));
    said.apply(console, words);
  };
}
