# Cache::Memcached::Fast: a client in C, of the text protocol. It splits the
# version into numbers, and dies when there is anything else in it.
use strict;
use warnings;
use Cache::Memcached::Fast;

my ($host, $port) = @ARGV;
my $count = 0;
sub check {
    my ($good, $what) = @_;
    $count++;
    die "Cache::Memcached::Fast: check $count $what\n" unless $good;
}

my $client = Cache::Memcached::Fast->new({ servers => ["$host:$port"], namespace => "perl:" });
my $versions = $client->server_versions;
check($versions->{"$host:$port"} =~ /^1\.6\.\d+$/, "version");
check($client->set("a", "one", 100), "set");
check($client->get("a") eq "one", "get");
check(!$client->add("a", "two"), "add");
check($client->replace("a", "two"), "replace");
check($client->append("a", "!"), "append");
check($client->get("a") eq "two!", "get after append");
my ($cas, $value) = @{ $client->gets("a") };
check($value eq "two!", "gets");
check($client->cas("a", $cas, "three"), "cas");
check(!$client->cas("a", $cas, "four"), "cas over a newer value");
check($client->set("n", 5), "set a number");
check($client->incr("n", 7) == 12, "incr");
check($client->decr("n", 2) == 10, "decr");
my $many = $client->set_multi(map { ["m:$_", "v" x $_] } 1 .. 200);
check((grep { $_ } values %$many) == 200, "set_multi");
my $found = $client->get_multi(map { "m:$_" } 1 .. 250);
check(keys %$found == 200 && $found->{"m:77"} eq "v" x 77, "get_multi");
check($client->touch("a", 100), "touch") if $client->can("touch");
check($client->delete("a"), "delete");
check(!defined $client->get("a"), "get after delete");
print "ok Cache::Memcached::Fast $count checks\n";
