package com.example.keyimport;

import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ConnectionTest {
    @ParameterizedTest
    @ValueSource(
            strings = {
                "unix:/a/socket",
                "unix:a-socket",
                "tcp:127.0.0.1:1",
                "127.255.0.9:1",
                "localhost:65535",
                "tcp:[::1]:1"
            })
    void speaksPlainTextOnThisMachine(String target) {
        Connection.to(target, null).close();
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "tcp:10.0.0.1:1",
                "broker.example:1",
                "localhost.example:1",
                "127.0.0.1.example:1",
                "127.0.0.256:1",
                "127.1:1",
                "2130706433:1",
                "0.0.0.0:1",
                "[::]:1",
                "[fe80::1]:1",
                "[::ffff:10.0.0.1]:1",
                "[::1:1"
            })
    void speaksPlainTextToNoOther(String target) {
        assertThrows(IllegalArgumentException.class, () -> Connection.to(target, null));
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "",
                "unix:",
                "localhost",
                "localhost:",
                ":1",
                "localhost:65536",
                "localhost:-1",
                "localhost:1/a",
                "a@b:1",
                "http://localhost:1",
                "dns:///localhost:1",
                "localhost :1",
                "localhost:1\n"
            })
    void refusesWhatIsNoTarget(String target) {
        assertThrows(IllegalArgumentException.class, () -> Connection.to(target, null));
    }

    @ParameterizedTest
    @ValueSource(strings = {"unix:/a/socket", "tcp:broker.example:1"})
    void refusesCredentialsThatAreNotOfMutualTls(String target) {
        for (var credentials :
                new io.grpc.ChannelCredentials[] {InsecureChannelCredentials.create(), TlsChannelCredentials.create()
                }) {
            assertThrows(IllegalArgumentException.class, () -> Connection.to(target, credentials));
        }
    }
}
