// What the clients of both official TypeScript SDKs play, and what they answer when they are asked.

const PATIENCE = { timeout: 20_000 };
const WANTS_LOGS = { 'io.modelcontextprotocol/logLevel': 'info' };

const answers = {
    elicit: request => {
        const wanted = Object.keys(request.params.requestedSchema.properties);
        const content = Object.fromEntries(wanted.map(name => [name, name === 'name' ? 'Ada' : 'red']));
        return { action: 'accept', content };
    },
    sample: request => {
        const asked = [request.params.messages[0].content].flat()[0].text;
        const text = asked.includes('France') ? 'Paris' : '?';
        return { role: 'assistant', model: 'm', content: { type: 'text', text } };
    },
    roots: () => ({ roots: [{ uri: 'file:///work', name: 'work' }] })
};

// What a client has heard without having asked.
class Ears {
    logs = [];
    changed = [];

    constructor() {
        this.bothChanged = new Promise(resolve => (this.resolve = resolve));
    }

    log(notification) {
        this.logs.push(notification.params.data);
    }

    change(what) {
        this.changed.push(what);
        if (this.changed.length === 2) this.resolve();
    }
}

const textOf = result => result.content.map(block => block.text ?? `<${block.type}>`).join('');

async function refusal(ask) {
    try {
        return (await ask()).isError ? 'is_error' : 'result';
    } catch (error) {
        return error.code;
    }
}

class Story {
    // callTool(params, options): the one method whose parameters differ between the SDKs.
    constructor(client, ears, isModern, callTool) {
        Object.assign(this, { client, ears, isModern });
        this.callTool = (name, given = {}, more = {}, rest = {}) =>
            callTool({ name, arguments: given, ...rest }, { ...PATIENCE, ...more });
    }

    async call(name, given) {
        return textOf(await this.callTool(name, given));
    }

    async tools() {
        const listed = (await this.client.listTools()).tools;
        const added = await this.callTool('add', { a: 1, b: 2 });
        const failed = await this.callTool('fail', { message: 'no luck' });
        return {
            tools: listed.map(tool => tool.name).filter(name => !name.startsWith('grown')).sort(),
            schema: listed.find(tool => tool.name === 'forecast').inputSchema,
            add: [textOf(added), added.structuredContent],
            forecast: (await this.callTool('forecast', { city: 'Oslo' })).structuredContent,
            fail: [failed.isError, textOf(failed)],
            bad_argument: await refusal(() => this.callTool('add', { a: 'one', b: 2 })),
            unknown_tool: await refusal(() => this.callTool('nobody')),
            picture: (await this.callTool('picture')).content.map(block => block.type),
            region: await this.call('region', { name: 'Zürich' }),
            long: (await this.call('echo', { text: 'é'.repeat(200_000) })).length
        };
    }

    async streams() {
        const steps = [];
        const onprogress = ({ progress, total, message }) => void steps.push([progress, total, message]);
        const meta = this.isModern ? { _meta: WANTS_LOGS } : {};
        const counted = await this.callTool('count', { to: 3 }, { onprogress }, meta);
        const seen = { count: textOf(counted), progress: [...steps], logs: [...this.ears.logs] };
        steps.length = 0;
        const resumed = await this.callTool('part', { to: 4 }, { onprogress });
        return { ...seen, part: [textOf(resumed), steps.map(([done]) => done)] };
    }

    async questions() {
        const seen = {};
        for (const name of ['ask_name', 'ask_model', 'several', 'introduce']) seen[name] = await this.call(name);
        seen.ponder = await this.call('ponder', { question: '?' });
        return { ...seen, roots: (await this.callTool('roots')).structuredContent };
    }

    async others() {
        const client = this.client;
        const read = async uri => (await client.readResource({ uri })).contents[0];
        const complete = async (ref, value) =>
            (await client.complete({ ref, argument: { name: 'name', value } })).completion.values;
        const config = await read('config://app');
        const prompts = (await client.listPrompts()).prompts;
        const greeted = await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } });
        return {
            resources: (await client.listResources()).resources.map(one => one.uri).sort(),
            templates: (await client.listResourceTemplates()).resourceTemplates.map(one => one.uriTemplate),
            config: [config.mimeType, JSON.parse(config.text)],
            greeting: (await read('greeting://Ada')).text,
            blob: (await read('memo://picture')).blob.slice(0, 8),
            missing_resource: await refusal(() => read('config://nothing')),
            prompts: prompts.map(one => [one.name, one.arguments.map(argument => argument.name)]),
            greet: greeted.messages[0].content.text,
            completion: await complete({ type: 'ref/prompt', name: 'greet' }, 'al'),
            cities: await complete({ type: 'ref/resource', uri: 'greeting://{name}' }, 'a')
        };
    }

    // Have the server change, and hear of it.
    async changes() {
        const uri = 'config://app';
        const subscription = this.isModern
            ? await this.client.listen({ toolsListChanged: true, resourceSubscriptions: [uri] })
            : await this.client.subscribeResource({ uri });
        const name = await this.call('grow');
        await this.call('touch', { uri });
        await this.ears.bothChanged;
        const changes = this.ears.changed.slice(0, 2).sort();
        if (this.isModern) await subscription.close();
        else await this.client.unsubscribeResource({ uri });
        const grown = (await this.call(name)) === name;
        await this.call('shrink', { name });
        return { changes, grown };
    }

    async cancelled() {
        const giveUp = new AbortController();
        const asked = this.callTool('slow', { seconds: 30 }, { signal: giveUp.signal });
        setTimeout(() => giveUp.abort('no time'), 500);
        const slow = await asked.then(() => 'it came', () => 'given up');
        await this.call('echo', { text: 'closing at once would hold back the cancellation' });
        return { slow };
    }

    async play(version) {
        const { name, version: release } = this.client.getServerVersion();
        let seen = { version, server: [name, release], instructions: this.client.getInstructions() };
        if (!this.isModern) {
            await this.client.ping();
            await this.client.setLoggingLevel('info');
        }
        for (const scene of ['tools', 'streams', 'questions', 'others', 'changes', 'cancelled'])
            seen = { ...seen, ...(await this[scene]()) };
        return seen;
    }
}

function run(main) {
    main().then(
        seen => console.log(JSON.stringify(seen)),
        error => {
            console.error(error);
            process.exit(1);
        }
    );
}

module.exports = { answers, Ears, PATIENCE, run, Story };
