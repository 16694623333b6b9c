package com.example.keyimport.driver;

import com.example.keyimport.DeletedKeyMaterial;
import com.example.keyimport.Expiration;
import com.example.keyimport.ImportedKeyMaterial;
import com.example.keyimport.Inside;
import com.example.keyimport.KeyImportClient;
import com.example.keyimport.KeyImportException;
import com.example.keyimport.KeyStatus;
import com.example.keyimport.MaterialOptions;
import com.example.keyimport.Parameters;
import com.example.keyimport.ParametersOptions;
import com.example.keyimport.Wrapping;
import com.example.keyimport.v1.ImportType;
import com.example.keyimport.v1.Sharing;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;

/** Does with the library what JSON lines on standard input tell it; see tests/conformance/DRIVER.md. */
final class Driver implements AutoCloseable {
    private static final String ALGORITHM = "WRAPPING_ALGORITHM_";
    private static final String SPEC = "WRAPPING_KEY_SPEC_";
    private static final String SHARING = "SHARING_";
    private static final String SOURCE = "PARAMETERS_SOURCE_";
    private static final String IMPORT_TYPE = "IMPORT_TYPE_";

    private KeyImportClient client;

    private Driver() {}

    /** Answers until the end of input; what the driver itself cannot do is thrown, and so ends it. */
    public static void main(String[] arguments) throws IOException, GeneralSecurityException {
        Gson json = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        try (var driver = new Driver()) {
            for (var line = lines.readLine(); line != null; line = lines.readLine()) {
                answers.println(json.toJson(
                        driver.answer(new Fields(JsonParser.parseString(line).getAsJsonObject()))));
            }
        }
    }

    @Override
    public void close() {
        if (client != null) {
            client.close();
        }
    }

    private JsonObject answer(Fields request) throws IOException, GeneralSecurityException {
        var answer = new JsonObject();
        try {
            answer.add("ok", carryOut(request));
        } catch (KeyImportException error) {
            answer.add("error", described(error));
        } catch (IllegalArgumentException error) {
            answer.add("error", misuse(error));
        }
        return answer;
    }

    private JsonObject carryOut(Fields request) throws IOException, GeneralSecurityException {
        return switch (request.text("do")) {
            case "connect" -> connect(request);
            case "get" -> told(within(request).getParameters(request.text("key_id"), parametersOptions(request)));
            case "import" ->
                told(
                        within(request)
                                .importKeyMaterial(
                                        request.text("key_id"),
                                        request.bytes("material"),
                                        expiration(request),
                                        parametersOptions(request),
                                        MaterialOptions.DEFAULT),
                        true);
            case "import_wrapped" ->
                told(
                        within(request)
                                .importWrapped(
                                        request.text("key_id"),
                                        request.bytes("encrypted_key_material"),
                                        request.bytes("import_token"),
                                        expiration(request),
                                        materialOptions(request)),
                        false);
            case "delete" ->
                told(within(request)
                        .deleteImportedKeyMaterial(request.text("key_id"), request.text("key_material_id", "")));
            case "discard" -> {
                within(request).discard(request.text("key_id"), request.bytes("import_token"));
                yield new JsonObject();
            }
            case "status" -> told(within(request).status(request.text("key_id")));
            case "wrap" ->
                object(
                        "wrapped",
                        base64(Wrapping.wrap(
                                request.bytes("material"),
                                request.bytes("public_key"),
                                algorithm(request),
                                spec(request))));
            case "aes_key_wrap" ->
                object("wrapped", base64(Inside.aesKeyWrap(request.bytes("key"), request.bytes("material"))));
            case "unwrap" ->
                object(
                        "material",
                        base64(Unwrapping.unwrap(
                                request.bytes("private_key"),
                                request.text("wrapping_algorithm"),
                                request.bytes("wrapped"))));
            default -> throw new IllegalStateException("the driver does not know how to do " + request.text("do"));
        };
    }

    private JsonObject connect(Fields request) throws IOException {
        var next = request.has("ca")
                ? KeyImportClient.connect(request.text("target"), credentials(request))
                : KeyImportClient.connect(request.text("target"));
        close();
        client = next;
        return new JsonObject();
    }

    private static ChannelCredentials credentials(Fields request) throws IOException {
        return TlsChannelCredentials.newBuilder()
                .trustManager(new File(request.text("ca")))
                .keyManager(new File(request.text("certificate")), new File(request.text("private_key")))
                .build();
    }

    private KeyImportClient within(Fields request) {
        if (client == null) {
            throw new IllegalStateException("the driver was not told to connect");
        }
        return request.has("timeout_ms") ? client.withTimeout(Duration.ofMillis(request.number("timeout_ms"))) : client;
    }

    private static ParametersOptions parametersOptions(Fields request) {
        var options = ParametersOptions.DEFAULT
                .withWrappingAlgorithm(algorithm(request))
                .withWrappingKeySpec(spec(request))
                .withSharing(Sharing.valueOf(SHARING + request.text("sharing", "UNSPECIFIED")));
        return request.has("min_remaining_seconds")
                ? options.withMinRemainingValidity(Duration.ofSeconds(request.number("min_remaining_seconds")))
                : options;
    }

    private static MaterialOptions materialOptions(Fields request) {
        return new MaterialOptions(
                ImportType.valueOf(IMPORT_TYPE + request.text("import_type", "UNSPECIFIED")),
                request.text("key_material_id", ""),
                request.text("key_material_description", ""));
    }

    /** The library takes one Expiration, so that both or none cannot be said to it; that is a misuse all the same. */
    private static Expiration expiration(Fields request) {
        boolean never = request.flag("never_expires");
        if (never == request.has("valid_to")) {
            throw new IllegalArgumentException("choose exactly one of valid_to and never_expires");
        }
        return never ? Expiration.never() : Expiration.at(Instant.parse(request.text("valid_to")));
    }

    private static WrappingAlgorithm algorithm(Fields request) {
        return WrappingAlgorithm.valueOf(ALGORITHM + request.text("wrapping_algorithm", "UNSPECIFIED"));
    }

    private static WrappingKeySpec spec(Fields request) {
        return WrappingKeySpec.valueOf(SPEC + request.text("wrapping_key_spec", "UNSPECIFIED"));
    }

    private static JsonObject told(Parameters parameters) {
        var ok = object("key_arn", parameters.keyArn());
        ok.addProperty("public_key", base64(parameters.publicKey()));
        ok.addProperty("import_token", base64(parameters.importToken()));
        ok.addProperty("parameters_valid_to", parameters.validTo().toString());
        ok.addProperty("wrapping_algorithm", word(parameters.wrappingAlgorithm(), ALGORITHM));
        ok.addProperty("wrapping_key_spec", word(parameters.wrappingKeySpec(), SPEC));
        ok.addProperty("public_key_sha256", parameters.publicKeySha256());
        ok.addProperty("source", word(parameters.source(), SOURCE));
        return ok;
    }

    private static JsonObject told(ImportedKeyMaterial imported, boolean wrappedHere) {
        var ok = object("key_arn", imported.keyArn());
        ok.addProperty("key_material_id", imported.keyMaterialId());
        if (wrappedHere) {
            ok.addProperty("public_key_sha256", imported.publicKeySha256());
        }
        return ok;
    }

    private static JsonObject told(DeletedKeyMaterial deleted) {
        var ok = object("key_arn", deleted.keyArn());
        ok.addProperty("key_material_id", deleted.keyMaterialId());
        return ok;
    }

    private static JsonObject told(KeyStatus status) {
        var ok = object("key_arn", status.keyArn());
        ok.addProperty("key_spec", status.keySpec());
        ok.addProperty("key_state", status.keyState());
        ok.addProperty("external_origin", status.externalOrigin());
        status.materialValidTo().ifPresent(time -> ok.addProperty("material_valid_to", time.toString()));
        ok.addProperty("multi_region", status.multiRegion());
        return ok;
    }

    private static JsonObject described(KeyImportException error) {
        var type = error.getClass() == KeyImportException.class
                ? "KeyImportError"
                : error.getClass().getSimpleName();
        var described = object("type", type);
        described.addProperty("reason", error.reason());
        described.addProperty("code", error.code().map(Enum::name).orElse(""));
        described.addProperty("message", error.getMessage());
        described.addProperty("field", error.field().orElse(""));
        var metadata = new JsonObject();
        error.metadata().forEach(metadata::addProperty);
        described.add("metadata", metadata);
        described.addProperty(
                "retry_after_ms", error.retryAfter().map(Duration::toMillis).orElse(null));
        return described;
    }

    private static JsonObject misuse(IllegalArgumentException error) {
        var described = object("type", "ArgumentError");
        described.addProperty("reason", "");
        described.addProperty("code", "");
        described.addProperty("message", error.getMessage());
        described.addProperty("field", "");
        described.add("metadata", new JsonObject());
        described.addProperty("retry_after_ms", (Number) null);
        return described;
    }

    private static JsonObject object(String name, String value) {
        var object = new JsonObject();
        object.addProperty(name, value);
        return object;
    }

    private static String word(Enum<?> value, String prefix) {
        return value.name().startsWith(prefix) ? value.name().substring(prefix.length()) : value.name();
    }

    private static String base64(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }
}
