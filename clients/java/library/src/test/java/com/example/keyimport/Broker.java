package com.example.keyimport;

import com.example.keyimport.v1.DeleteImportedKeyMaterialRequest;
import com.example.keyimport.v1.DeleteImportedKeyMaterialResponse;
import com.example.keyimport.v1.DiscardParametersRequest;
import com.example.keyimport.v1.DiscardParametersResponse;
import com.example.keyimport.v1.GetKeyImportStatusRequest;
import com.example.keyimport.v1.GetKeyImportStatusResponse;
import com.example.keyimport.v1.GetParametersForImportRequest;
import com.example.keyimport.v1.GetParametersForImportResponse;
import com.example.keyimport.v1.ImportKeyMaterialRequest;
import com.example.keyimport.v1.ImportKeyMaterialResponse;
import com.example.keyimport.v1.KeyImportServiceGrpc;
import com.example.keyimport.v1.ParametersSource;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioServerDomainSocketChannel;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnixDomainSocketAddress;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.Consumer;
import java.util.stream.Stream;

/** A broker on a real connection, which refuses what it is told to, and lies where it is told to. */
final class Broker extends KeyImportServiceGrpc.KeyImportServiceImplBase implements ServerInterceptor, AutoCloseable {
    static final String KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab";
    static final String KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/" + KEY_ID;

    /** What calls end with before any succeeds, in order, of whichever method. */
    final Queue<StatusRuntimeException> failures = new ConcurrentLinkedQueue<>();

    /** The same of imports alone. */
    final Queue<StatusRuntimeException> importFailures = new ConcurrentLinkedQueue<>();

    /** All requests, in order. */
    final List<Object> requests = Collections.synchronizedList(new ArrayList<>());

    final List<String> authorities = Collections.synchronizedList(new ArrayList<>());
    volatile Consumer<GetParametersForImportResponse.Builder> lie = answer -> {};
    volatile String answeredArn = KEY_ARN;
    volatile Timestamp materialValidTo;

    private final Server server;

    private Broker(NettyServerBuilder builder) throws IOException {
        server = builder.addService(this).intercept(this).build().start();
    }

    static Broker onLoopback(int port) throws IOException {
        return new Broker(NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), port)));
    }

    static Broker onUnixSocket(Path path) throws IOException {
        var loop = new MultiThreadIoEventLoopGroup(1, NioIoHandler.newFactory());
        return new Broker(NettyServerBuilder.forAddress(UnixDomainSocketAddress.of(path))
                .channelType(NioServerDomainSocketChannel.class)
                .withChildOption(ChannelOption.SO_KEEPALIVE, null) // which these sockets have not, so that Netty warns
                .bossEventLoopGroup(loop)
                .workerEventLoopGroup(loop));
    }

    String target() {
        return "tcp:127.0.0.1:" + server.getPort();
    }

    int port() {
        return server.getPort();
    }

    /** How many requests of a kind there were. */
    long count(Class<?> kind) {
        return requests.stream().filter(kind::isInstance).count();
    }

    @Override
    public void close() {
        server.shutdownNow();
        try {
            server.awaitTermination();
        } catch (InterruptedException interrupted) {
            throw new AssertionError(interrupted);
        }
    }

    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
            ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
        authorities.add(call.getAuthority());
        return next.startCall(call, headers);
    }

    @Override
    public void getParametersForImport(
            GetParametersForImportRequest request, StreamObserver<GetParametersForImportResponse> observer) {
        var publicKey = ByteString.copyFrom(Keys.rsa(2048).getPublic().getEncoded());
        var answer = GetParametersForImportResponse.newBuilder()
                .setKeyArn(KEY_ARN)
                .setPublicKey(publicKey)
                .setPublicKeySha256(sha256(publicKey))
                .setImportToken(ByteString.copyFromUtf8("token " + requests.size()))
                .setParametersValidTo(Times.timestamp(Instant.now().plusSeconds(3600)))
                .setWrappingAlgorithm(WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256)
                .setWrappingKeySpec(WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048)
                .setSource(ParametersSource.PARAMETERS_SOURCE_CACHE);
        lie.accept(answer);
        answer(request, answer.build(), observer);
    }

    @Override
    public void importKeyMaterial(
            ImportKeyMaterialRequest request, StreamObserver<ImportKeyMaterialResponse> observer) {
        failures.addAll(Stream.ofNullable(importFailures.poll()).toList());
        answer(
                request,
                ImportKeyMaterialResponse.newBuilder().setKeyArn(answeredArn).build(),
                observer);
    }

    @Override
    public void deleteImportedKeyMaterial(
            DeleteImportedKeyMaterialRequest request, StreamObserver<DeleteImportedKeyMaterialResponse> observer) {
        answer(
                request,
                DeleteImportedKeyMaterialResponse.newBuilder()
                        .setKeyArn(answeredArn)
                        .build(),
                observer);
    }

    @Override
    public void discardParameters(
            DiscardParametersRequest request, StreamObserver<DiscardParametersResponse> observer) {
        answer(request, DiscardParametersResponse.getDefaultInstance(), observer);
    }

    @Override
    public void getKeyImportStatus(
            GetKeyImportStatusRequest request, StreamObserver<GetKeyImportStatusResponse> observer) {
        var answer =
                GetKeyImportStatusResponse.newBuilder().setKeyArn(answeredArn).setKeyState("Enabled");
        if (materialValidTo != null) {
            answer.setMaterialValidTo(materialValidTo);
        }
        answer(request, answer.build(), observer);
    }

    static ByteString sha256(ByteString bytes) {
        try {
            return ByteString.copyFrom(MessageDigest.getInstance("SHA-256").digest(bytes.toByteArray()));
        } catch (GeneralSecurityException error) {
            throw new AssertionError(error);
        }
    }

    private <A> void answer(Object request, A answer, StreamObserver<A> observer) {
        requests.add(request);
        var failure = failures.poll();
        if (failure != null) {
            observer.onError(failure);
        } else {
            observer.onNext(answer);
            observer.onCompleted();
        }
    }
}
