<?php
// php-memcached: libmemcached from PHP, text and binary.

$checks = 0;
function equal($got, $want, $what = "") {
    global $checks;
    $checks++;
    if ($got !== $want) {
        fwrite(STDERR, "php-memcached: check $checks $what: got " . var_export($got, true) . ", want " . var_export($want, true) . "\n");
        exit(1);
    }
}

[$_, $host, $port] = $argv;
foreach ([false, true] as $binary) {
    $client = new Memcached();
    $client->setOptions([
        Memcached::OPT_BINARY_PROTOCOL => $binary,
        Memcached::OPT_TCP_NODELAY => true,
        Memcached::OPT_PREFIX_KEY => "h:" . ($binary ? "b:" : "t:"),
        Memcached::OPT_COMPRESSION => false,
        Memcached::OPT_RECV_TIMEOUT => 10000000,
        Memcached::OPT_POLL_TIMEOUT => 10000,
    ]);
    $client->addServer($host, (int)$port);
    $client->flush();
    equal($client->set("a", "text"), true);
    equal($client->get("a"), "text");
    equal($client->get("none"), false);
    equal($client->getResultCode(), Memcached::RES_NOTFOUND);
    foreach ([42, 1.5, true, ["x" => [1, 2]], random_bytes(1000), ""] as $index => $value) {
        equal($client->set("type$index", $value), true);
        equal($client->get("type$index"), $value);
    }
    equal($client->add("a", "no"), false);
    equal($client->add("new", "mid"), true);
    equal($client->replace("none", "no"), false);
    equal($client->append("new", "-end"), true);
    equal($client->prepend("new", "start-"), true);
    equal($client->get("new"), "start-mid-end");
    $extended = $client->get("new", null, Memcached::GET_EXTENDED);
    equal($extended["value"], "start-mid-end");
    equal($client->cas($extended["cas"], "new", "cas"), true);
    equal($client->cas($extended["cas"], "new", "again"), false);
    equal($client->getResultCode(), Memcached::RES_DATA_EXISTS);
    $client->set("n", 10);
    equal($client->increment("n", 5), 15);
    equal($client->decrement("n", 100), 0);
    equal($client->increment("none", 1), false);
    if ($binary) {
        equal($client->increment("initial", 1, 7), 7);
        equal($client->increment("initial", 1, 7), 8);
    }
    $many = [];
    for ($i = 0; $i < 300; $i++) {
        $many["m$i"] = "value $i";
    }
    equal($client->setMulti($many), true);
    equal($client->getMulti(array_keys($many), Memcached::GET_PRESERVE_ORDER), $many);
    $client->getDelayed(["m1", "m2"], true);
    equal(count($client->fetchAll()), 2);
    foreach ($client->deleteMulti(["m1", "m2"]) as $deleted) {
        equal($deleted, true);
    }
    equal($client->get("m1"), false);
    $large = str_repeat("0123456789", 70000);
    equal($client->set("large", $large), true);
    equal($client->get("large"), $large);
    if (!$binary) {
        equal($client->set("a space", "x"), false);
    }
    equal($client->set("ttl", "x", 1), true);
    equal($client->set("ttl2", "x", 1), true);
    equal($client->touch("ttl2", 100), true);
    sleep(2);
    usleep(100000);
    equal($client->get("ttl"), false);
    equal($client->get("ttl2"), "x");
    equal($client->delete("a"), true);
    equal($client->delete("a"), false);
    equal(count($client->getStats()), 1);
    $version = array_values($client->getVersion())[0];
    equal(str_starts_with($version, "1.6."), true, $version);
    equal($client->flush(), true);
    equal($client->get("ttl2"), false);
    $client->quit();
}
echo "ok php-memcached $checks checks\n";
