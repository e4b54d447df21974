"""Transports: ways to reach a server; the client ends of the bindings.

==========  ===================  =============================  ==================================================
binding     the recipe           what it dials                  what that is made of
==========  ===================  =============================  ==================================================
(all)       transport, session   engine.channel.PipeChannel     outlet, asides: stderr; listeners: decorators
stdio       stdio                process: a child               making: steps that have to be undone
HTTP        http, network        streamable: HttpChannel        errands, events, web (requests), passport
HTTP+SSE    sse, network         sse: SseChannel                the same
WebSocket   websocket, network   framed: a Pipe                 upgrade (websocket-client), lines: sockets
Docker      docker               container: a Pipe              dockerd (the SDK), contained, owners, making
memory      memory               memory: a Pipe
a user's    custom, objects      objects: a Pipe
==========  ===================  =============================  ==================================================

For all that use sockets: ``resolving`` looks up hosts, ``secure`` has the TLS contexts.
"""
