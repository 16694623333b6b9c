package com.example.keyimport;

import io.grpc.ChannelCredentials;
import io.grpc.ConnectivityState;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.util.concurrent.DefaultThreadFactory;
import java.net.InetAddress;
import java.net.UnixDomainSocketAddress;
import java.net.UnknownHostException;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/** The connection to a broker: only where nobody can answer in its place, and without retries of gRPC's own. */
final class Connection implements AutoCloseable {
    /** A token and a ciphertext are at most 6 KiB each; whatever is far larger is no message of this API. */
    static final int MESSAGE_BYTES = 64 * 1024;

    private static final String UNIX = "unix:";
    private static final Pattern TCP =
            Pattern.compile("(?:tcp:)?(?:\\[(?<v6>[0-9A-Fa-f:.]+)]|(?<host>[A-Za-z0-9._-]+)):(?<port>[0-9]{1,5})");
    private static final Pattern LOOPBACK = Pattern.compile("localhost|127(\\.(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}");
    private static final long GRACE_SECONDS = 5;

    private final ManagedChannel channel;
    private final EventLoopGroup ownLoop;

    private Connection(ManagedChannel channel, EventLoopGroup ownLoop) {
        this.channel = channel;
        this.ownLoop = ownLoop;
    }

    /**
     * Prepares a connection; it is made with the first call.
     *
     * @param credentials of mutual TLS, or null for none
     * @throws IllegalArgumentException if the target is none, lacks the credentials it needs, or takes none
     */
    static Connection to(String target, ChannelCredentials credentials) {
        if (target.startsWith(UNIX)) {
            if (credentials != null) {
                throw new IllegalArgumentException("a Unix socket takes no TLS credentials");
            }
            return overUnixSocket(target.substring(UNIX.length()));
        }
        var parts = TCP.matcher(target);
        if (!parts.matches() || Integer.parseInt(parts.group("port")) > 65535) {
            throw new IllegalArgumentException("'" + target + "' is none of unix:PATH, tcp:HOST:PORT and HOST:PORT");
        }
        boolean v6 = parts.group("v6") != null;
        var host = v6 ? parts.group("v6") : parts.group("host");
        // Whoever can answer in the broker's place can have the key material wrapped for himself.
        if (credentials == null && !isLoopback(host)) {
            throw new IllegalArgumentException(
                    "'" + target + "' is not on this machine, so the connection needs TLS credentials");
        }
        if (credentials != null && !isMutualTls(credentials)) {
            throw new IllegalArgumentException("the credentials must be TlsChannelCredentials with a key manager");
        }
        // The brackets of an IPv6 address have to be escaped within a URI.
        var uri = "dns:///" + (v6 ? "%5B" + host + "%5D" : host) + ":" + parts.group("port");
        var chosen = credentials == null ? InsecureChannelCredentials.create() : credentials;
        return new Connection(finish(NettyChannelBuilder.forTarget(uri, chosen)), null);
    }

    private static Connection overUnixSocket(String path) {
        if (path.isEmpty()) {
            throw new IllegalArgumentException("unix: needs a path");
        }
        // NIO rather than epoll: these sockets are the JDK's own, on every system it runs on.
        var loop = new MultiThreadIoEventLoopGroup(
                1, new DefaultThreadFactory("keyimport", true), NioIoHandler.newFactory());
        var builder = NettyChannelBuilder.forAddress(
                        UnixDomainSocketAddress.of(path), InsecureChannelCredentials.create())
                .eventLoopGroup(loop)
                .channelType(NioDomainSocketChannel.class, UnixDomainSocketAddress.class)
                // gRPC asks for it unasked, and Netty warns at every connection that these sockets have none.
                .withOption(ChannelOption.SO_KEEPALIVE, null)
                // Else it is the path, which is no :authority, and which servers refuse.
                .overrideAuthority("localhost");
        return new Connection(finish(builder), loop);
    }

    private static ManagedChannel finish(NettyChannelBuilder builder) {
        return builder
                // Trying again is decided in one place, Retry. gRPC would otherwise send an import again by itself,
                // or when a DNS record's service config says so.
                .disableRetry()
                .disableServiceConfigLookUp()
                // No proxy from the environment: it could answer in the broker's place.
                .proxyDetector(address -> null)
                .maxInboundMessageSize(MESSAGE_BYTES)
                .build();
    }

    /** What to call on. A broker that is back is found at once: left alone, gRPC stays away for up to two minutes. */
    ManagedChannel channel() {
        // gRPC does it later where another of its threads is busy; a call made meanwhile would fail of the past.
        while (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            channel.enterIdle();
            Thread.yield();
        }
        return channel;
    }

    @Override
    public void close() {
        channel.shutdownNow();
        if (ownLoop != null) {
            try {
                channel.awaitTermination(GRACE_SECONDS, TimeUnit.SECONDS);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
            ownLoop.shutdownGracefully(0, GRACE_SECONDS, TimeUnit.SECONDS);
        }
    }

    private static boolean isMutualTls(ChannelCredentials credentials) {
        return credentials instanceof TlsChannelCredentials tls
                && (tls.getCertificateChain() != null || tls.getKeyManagers() != null);
    }

    private static boolean isLoopback(String host) {
        try {
            // Only what has a colon is parsed: it can be no name, so that no resolver is asked.
            return LOOPBACK.matcher(host).matches()
                    || (host.contains(":") && InetAddress.getByName(host).isLoopbackAddress());
        } catch (UnknownHostException notAnAddress) {
            return false;
        }
    }
}
