// A client made with the official TypeScript SDK 1.x, which plays a story and prints what it saw, as JSON.
//
// `ts1_client.cjs handshake http URL`, or `sse URL`, `websocket URL` or `stdio COMMAND...`; this SDK knows the old era
// only.

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { SSEClientTransport } = require('@modelcontextprotocol/sdk/client/sse.js');
const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { WebSocketClientTransport } = require('@modelcontextprotocol/sdk/client/websocket.js');
const types = require('@modelcontextprotocol/sdk/types.js');
const { answers, Ears, PATIENCE, run, Story } = require('./story.cjs');

const [, binding, target, ...args] = process.argv.slice(2);
const TRANSPORTS = {
    http: StreamableHTTPClientTransport,
    sse: SSEClientTransport,
    websocket: WebSocketClientTransport
};

function transport() {
    if (binding === 'stdio') return new StdioClientTransport({ command: target, args, env: process.env });
    return new TRANSPORTS[binding](new URL(target));
}

run(async () => {
    const ears = new Ears();
    const capabilities = { elicitation: {}, sampling: {}, roots: {} };
    const client = new Client({ name: 'ts1', version: '1.0' }, { capabilities });
    client.setRequestHandler(types.ElicitRequestSchema, answers.elicit);
    client.setRequestHandler(types.CreateMessageRequestSchema, answers.sample);
    client.setRequestHandler(types.ListRootsRequestSchema, answers.roots);
    client.setNotificationHandler(types.LoggingMessageNotificationSchema, said => ears.log(said));
    client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => ears.change('tools'));
    client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, said => ears.change(said.params.uri));
    const connection = transport();
    let version;
    connection.setProtocolVersion = (old => agreed => ((version = agreed), old?.call(connection, agreed)))(
        connection.setProtocolVersion
    );
    await client.connect(connection, PATIENCE);
    const story = new Story(client, ears, false, (params, options) => client.callTool(params, undefined, options));
    const seen = await story.play(version);
    await client.close();
    return seen;
});
