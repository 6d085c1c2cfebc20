
/* Connections: paged, each can be closed */

const PAGE_SIZE = 100;

// pager goes through pages whose answer names the next one; the way back is kept.
function pager(host, load, forward = "Next", backward = "Back") {
  let starts = [""], next = "";
  const back = make("button", { type: "button", class: "small", click: () => { starts.pop(); load(); } }, backward);
  const on = make("button", { type: "button", class: "small", click: () => { starts.push(next); load(); } }, forward);
  const where = make("span");
  host.replaceChildren(where, back, on);
  return {
    get after() { return starts.at(-1); },
    show(rows, nextPage) {
      next = nextPage ?? "";
      back.disabled = starts.length === 1;
      on.disabled = !next;
      host.hidden = back.disabled && on.disabled;
      setText(where, rows > 0 ? `page ${starts.length}` : "");
    },
    reset() { starts = [""]; next = ""; host.hidden = true; },
  };
}

const place = (path, query) => path + "?" + new URLSearchParams(Object.entries(query).filter(([, v]) => v !== ""));

// connectionList shows the connections of the channel that channelOf names, all when it
// names none.
function connectionList(host, pagerHost, channelOf) {
  let running = null;
  const pages = pager(pagerHost, () => { list.reset(); running?.now(); });
  const list = table(host, {
    label: "Connections",
    key: (c) => c.id,
    columns: [
      { label: "Client", class: "name lead", fill: (td, c) => td.append(make("span", { class: "mono" }, c.client || "unix socket"), c.subject ? tag(visible(c.subject)) : "", c.blocked ? tag("socket full", "warn") : "") },
      { label: "Channels", class: "name", fill: fillChannels },
      { label: "Delivered up to", class: "nowrap full", fill: (td, c) => td.append(make("span", { class: "mono muted" }, c.position || "–")) },
      { label: "Open for", class: "right full", fill: (td, c) => td.append(c.openFor) },
      { label: "Close", unseen: true, class: "right act", once: true, fill: (td, c) => td.append(make("button", { type: "button", class: "small danger", "aria-label": "Close the connection of " + c.client, click: () => close(c) }, "Close…")) },
    ],
    empty: "No connection to this instance.",
  });

  async function load(signal) {
    const { value } = await api(place("/api/connections", { channel_id: channelOf(), limit: String(PAGE_SIZE), after: pages.after }), { signal });
    pages.show(value.connections.length, value.next);
    return value.connections.map((c) => ({ ...c, openFor: age(Date.parse(c.opened), serverNow()) }));
  }

  async function close(c) {
    const text = `${c.subject ? visible(c.subject) + ", " : ""}${c.client || "A client"} on ${c.channels.slice(0, 3).map(visible).join(", ")}${c.channels.length > 3 ? " and more" : ""}. ` +
      "It is told when to come back, and a browser does so by itself.";
    if (!await confirmed("Close this connection?", text, "Close it")) return;
    try {
      await api("/api/connections/" + encodeURIComponent(c.id), { method: "DELETE" });
    } catch (error) {
      if (!error.message.startsWith("404")) return list.fail(error); // 404: it left by itself
    }
    running?.now();
  }
  return {
    open() {
      pages.reset();
      list.reset();
      running = poll(3, loader(list, load));
      return () => { running.stop(); running = null; };
    },
    refresh: () => running?.now(),
  };
}

function fillChannels(td, c) {
  c.channels.slice(0, 4).forEach((name, i) => td.append(i > 0 ? ", " : "", channelLink(name)));
  if (c.channels.length > 4) td.append(tag(`and ${c.channels.length - 4} more`));
  td.title = c.channels.length > 4 ? c.channels.map(visible).join("\n") : "";
}

let allOf = "";
const allConnections = connectionList($("all-list"), $("all-pager"), () => allOf);

function openConnections() {
  let end = allConnections.open();
  const filter = (event) => {
    event.preventDefault();
    allOf = $("all-channel").value;
    end();
    end = allConnections.open();
  };
  $("all-filter").addEventListener("submit", filter);
  return () => { $("all-filter").removeEventListener("submit", filter); end(); };
}
