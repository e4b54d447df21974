// A client made with the official TypeScript SDK 2.x, which plays a story and prints what it saw, as JSON.
//
// `ts2_client.cjs auto http URL`, or `stateless` for the new era only, or `handshake` for the old one; and `sse URL` or
// `stdio COMMAND...`.

const { Client, SSEClientTransport, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
const { StdioClientTransport } = require('@modelcontextprotocol/client/stdio');
const { answers, Ears, PATIENCE, run, Story } = require('./story.cjs');

const [era, binding, target, ...args] = process.argv.slice(2);
const MODE = { auto: 'auto', handshake: 'legacy', stateless: { pin: '2026-07-28' } }[era];

function transport() {
    if (binding === 'stdio') return new StdioClientTransport({ command: target, args, env: process.env });
    const url = new URL(target);
    return binding === 'http' ? new StreamableHTTPClientTransport(url) : new SSEClientTransport(url);
}

run(async () => {
    const ears = new Ears();
    const capabilities = { elicitation: {}, sampling: {}, roots: {} };
    const client = new Client({ name: 'ts2', version: '1.0' }, { capabilities, versionNegotiation: { mode: MODE } });
    client.setRequestHandler('elicitation/create', answers.elicit);
    client.setRequestHandler('sampling/createMessage', answers.sample);
    client.setRequestHandler('roots/list', answers.roots);
    client.setNotificationHandler('notifications/message', said => ears.log(said));
    client.setNotificationHandler('notifications/tools/list_changed', () => ears.change('tools'));
    client.setNotificationHandler('notifications/resources/updated', said => ears.change(said.params.uri));
    await client.connect(transport(), PATIENCE);
    const isModern = client.getProtocolEra() === 'modern';
    const story = new Story(client, ears, isModern, (params, options) => client.callTool(params, options));
    const seen = await story.play(client.getNegotiatedProtocolVersion());
    await client.close();
    return seen;
});
