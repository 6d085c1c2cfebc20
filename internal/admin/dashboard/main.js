
/* Views by the hash: #/, #/connections, #/channel/NAME */

let leave = () => {};

function route() {
  const [, view = "", rest = ""] = location.hash.match(/^#\/([a-z]*)\/?(.*)$/s) ?? [];
  if (view === "channel" && rest !== "") {
    let name = rest;
    try { name = decodeURIComponent(rest); } catch { /* typed by hand: as it is */ }
    return ["channel", name];
  }
  return [view === "connections" ? view : "overview", ""];
}

function show(moveFocus) {
  leave();
  const [view, name] = route();
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = view === "channel" ? visible(name) + " · ssed" : "ssed";
  leave = { overview: openOverview, connections: openConnections, channel: openChannel }[view](name);
  if (moveFocus) {
    scrollTo(0, 0);
    $("content").focus({ preventScroll: true });
  }
}

$("open-channel").addEventListener("submit", (e) => {
  e.preventDefault();
  location.hash = "#/channel/" + encodeURIComponent($("open-name").value);
  $("open-name").value = "";
});

document.addEventListener("keydown", (e) => {
  const typing = e.target.matches("input, textarea, select") || $("confirm").open;
  if (e.key === "/" && !typing && !e.ctrlKey && !e.metaKey && !e.altKey) {
    e.preventDefault();
    $("open-name").focus();
  }
});

$("skip").addEventListener("click", (e) => { e.preventDefault(); $("content").focus(); });
addEventListener("hashchange", () => show(true));

loadRecent().finally(connect);
loadGaps();
show(false);
