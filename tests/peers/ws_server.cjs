// A server with the package ws, with permessage-deflate: ws_server.cjs PORT. NODE_PATH names where ws is.
// Tools: echo(text), big(n), extensions(): what was agreed, code(code): close with it, ask(): ping the client.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  maxPayload: 64 << 20,
  perMessageDeflate: process.env.DEFLATE === "0" ? false : { threshold: 0 },
  handleProtocols: (offered) => (offered.has("mcp") ? "mcp" : false),
});

const tools = {
  echo: ({ text }) => text,
  big: ({ n }) => "x".repeat(n),
  extensions: (_, socket) => socket.extensions,
  code: ({ code }, socket) => socket.close(code, "as you wish"),
  ask: (_, socket) => new Promise((done) => {
    socket.once("pong", (data) => done(data.toString()));
    socket.ping("there?");
  }),
};

async function answer({ method, params }, socket) {
  if (method === "initialize") {
    const about = { name: "ws", version: "1" };
    return { result: { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: about } };
  }
  if (method === "ping") return { result: {} };
  if (method === "tools/call" && tools[params.name]) {
    const text = await tools[params.name](params.arguments || {}, socket);
    return { result: { content: [{ type: "text", text: String(text) }] } };
  }
  return { error: { code: -32601, message: `no ${method}` } };
}

server.on("connection", (socket) => {
  socket.on("message", async (data, isBinary) => {
    if (isBinary) return socket.close(1003);
    const message = JSON.parse(data);
    if (message.id === undefined) return;
    const found = await answer(message, socket);
    if (socket.readyState === socket.OPEN) socket.send(JSON.stringify({ jsonrpc: "2.0", id: message.id, ...found }));
  });
  socket.on("error", (error) => console.error("flaw:", error.message));
  socket.on("close", (code, reason) => console.error("closed:", code, reason.toString()));
});
