"""SGLang servers and the router in front of them: started, asked, counted, restarted, ended. Leaders only.

    placement.py         which servers a replica has: on which nodes, on which GPUs
    ports.py             a port that stays ours until the server listens on it
    node_address.py      the address at which other nodes reach this one
    gate.py              a starting server takes no memory before it is let in
    arguments.py         config -> SGLang's ServerArgs
    time_limits.py       how long one is waited for, by device
    environment.py       the trainer's environment -> a server's

    server.py            what the others need of a server, whoever runs it
    sglang_server.py     a server that this rank starts and ends
    remote_server.py     one of this replica on another node, started by another rank
    external_server.py   one that someone else started (`servers.urls`)
    lease.py             one trainer at a time uses that one
    recovery.py          brings it back from where a trainer that died left it
    router.py            the router in front of all servers; router_process.py is the process
    child_process.py     what server and router have in common: a process that never outlives this one

    sglang_engine.py     the client: `RolloutEngine` over the replica's own servers
    routed_engine.py     the same through the router
    request_batches.py   several requests in one HTTP call, each with an end of its own
    server_repair.py     finds servers that died or hang, and has each revived once
    engine_requests.py   GenerationRequest, ScoringRequest -> what SGLang is sent
    engine_responses.py  what SGLang sent back -> Generation, Scoring, or an error
    usage.py             a response -> what it adds to the account of its process

    control.py           sleep, wake, weight version, revival between rollouts
    router_control.py    which servers the router sends to
    server_info.py       a field of what a server says of itself
    counters.py          the servers' own counters, and the books beside them

How the weights come to a server is `weight_sync/`'s matter, and what is sampled `rollout/`'s: they meet this room
through `interfaces.RolloutEngine` and the `url` of a server. All HTTP goes through `http_client.py`.
"""
