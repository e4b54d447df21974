// A client of a Partner over WebSocket: ws_client.cjs (ws | global) URL. NODE_PATH names where ws is.
// "ws" is the package, "global" what comes with Node.js 22 and later, as in a browser.
const [kind, url] = process.argv.slice(2);
const WebSocket = kind === "ws" ? require("ws") : globalThis.WebSocket;

const socket = new WebSocket(url, ["mcp"]);
const waiting = new Map();
let news = 0;

function call(id, method, params) {
  socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
  return new Promise((done) => waiting.set(id, done));
}

socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  if (message.method === "news") news += 1;
  else waiting.get(message.id)(message.result);
});
socket.addEventListener("error", (event) => {
  console.error("failed:", event.message || event.error);
  process.exit(1);
});

socket.addEventListener("open", async () => {
  const sizes = [];
  for (const size of [0, 1, 125, 126, 65535, 65536, 2000000]) {
    const text = "grüße ".repeat(size / 6 + 1).slice(0, size);
    const answer = await call(`n${size}`, "echo", { text });
    if (answer.text === text) sizes.push(size);
  }
  await call("last", "notify", { count: 100 });
  socket.addEventListener("close", ({ code }) => {
    const deflate = socket.extensions.includes("permessage-deflate");
    console.log(JSON.stringify({ protocol: socket.protocol, deflate, sizes, news, closed: code }));
  });
  socket.close(1000);
});
